//! The directories of the simulated disk: names as they are shown, and as they would be after a loss of power.
//!
//! Only what the engine needs: files and directories, renames within one directory. Invariant: of the changes to one
//! name a prefix survives; a rename is a change to two names and survives for both or for neither.

use super::{Mood, Rng};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Dir,
    /// A file, by the number of its content.
    File(u64),
}

#[derive(Clone, Debug)]
enum Change {
    Create(PathBuf, Node),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl Change {
    fn names(&self) -> Vec<&PathBuf> {
        match self {
            Change::Create(path, _) | Change::Remove(path) => vec![path],
            Change::Rename(from, to) => vec![from, to],
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Change::Create(path, node) => {
                names.insert(path.clone(), *node);
            }
            Change::Rename(from, to) => {
                let node = names.remove(from).expect("all earlier changes of the name were applied");
                names.insert(to.clone(), node);
            }
            Change::Remove(path) => {
                names.remove(path);
            }
        }
    }
}

/// All names.
pub struct Names {
    shown: BTreeMap<PathBuf, Node>,
    stable: BTreeMap<PathBuf, Node>,
    /// Changes not yet stable, in order.
    cached: Vec<Change>,
}

impl Default for Names {
    /// The root, and nothing in it.
    fn default() -> Self {
        let root = BTreeMap::from([(PathBuf::from("/"), Node::Dir)]);
        Self { shown: root.clone(), stable: root, cached: Vec::new() }
    }
}

impl Names {
    /// What `path` stands for.
    pub fn get(&self, path: &Path) -> Option<Node> {
        self.shown.get(path).copied()
    }

    /// Whether the directory that would hold `path` is there.
    pub fn has_parent(&self, path: &Path) -> bool {
        path.parent().is_some_and(|parent| self.get(parent) == Some(Node::Dir))
    }

    /// A new name.
    pub fn create(&mut self, path: &Path, node: Node) {
        self.change(Change::Create(path.to_owned(), node));
    }

    /// Another name for what `from` stands for; what `to` stood for loses it.
    pub fn rename(&mut self, from: &Path, to: &Path) {
        self.change(Change::Rename(from.to_owned(), to.to_owned()));
    }

    /// Takes a name away.
    pub fn remove(&mut self, path: &Path) {
        self.change(Change::Remove(path.to_owned()));
    }

    /// The names in `dir`, sorted.
    pub fn list(&self, dir: &Path) -> Vec<String> {
        let inside = self.shown.keys().filter(|path| path.parent() == Some(dir));
        inside.filter_map(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned()).collect()
    }

    /// Every file that is shown, with its content.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let file = |(path, node): (&PathBuf, &Node)| match node {
            Node::File(content) => Some((path.clone(), *content)),
            Node::Dir => None,
        };
        self.shown.iter().filter_map(file).collect()
    }

    /// Makes the changes of the names in `dir` stable.
    pub fn sync(&mut self, dir: &Path) {
        let (here, elsewhere) = std::mem::take(&mut self.cached)
            .into_iter()
            .partition::<Vec<_>, _>(|change| change.names().iter().all(|path| path.parent() == Some(dir)));
        here.iter().for_each(|change| change.apply(&mut self.stable));
        self.cached = elsewhere;
    }

    /// The power is gone: some of the changes survive, in order for each name.
    pub fn lose_power(&mut self, rng: &mut Rng, mood: Mood) {
        let mut stuck = BTreeSet::new();
        for change in std::mem::take(&mut self.cached) {
            let names = change.names();
            if names.iter().all(|path| !stuck.contains(*path)) && mood.spares(rng) {
                change.apply(&mut self.stable);
            } else {
                stuck.extend(names.into_iter().cloned());
            }
        }
        // What lies in a directory that did not survive is out of reach. Parents sort before their children.
        let mut reachable = BTreeMap::new();
        for (path, node) in std::mem::take(&mut self.stable) {
            if path.parent().is_none_or(|parent| reachable.get(parent) == Some(&Node::Dir)) {
                reachable.insert(path, node);
            }
        }
        self.stable = reachable;
        self.shown.clone_from(&self.stable);
    }

    /// The contents that a name leads to, now or after a loss of power.
    pub fn contents(&self) -> BTreeSet<u64> {
        let created = self.cached.iter().filter_map(|change| match change {
            Change::Create(_, node) => Some(node),
            _ => None,
        });
        let nodes = self.shown.values().chain(self.stable.values()).chain(created);
        nodes.filter_map(|node| if let Node::File(content) = node { Some(*content) } else { None }).collect()
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.shown);
        self.cached.push(change);
    }
}
