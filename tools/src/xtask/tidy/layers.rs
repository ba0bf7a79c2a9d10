//! The layers of the engine: every module has one, and imports lead downward only.
//!
//! Only paths that name a module of the engine are looked at (`crate::x`, `super::x` where it reaches the crate's
//! root, and names that lib.rs re-exports). Test code may import what it likes. Invariant: a module without a layer
//! is an error, so that the table below is complete.

use std::collections::BTreeMap;
use std::path::Path;

use super::Problem;
use super::source::{Source, words};

/// The modules of each layer, lowest first. Those of layer [`ISLANDS`] do not even import one another.
const LAYERS: &[&[&str]] = &[
    &[
        "types", "limits", "names", "config", "error", "sync", "poison", "waiter", "clock", "metrics", "finding",
        "mutants",
    ],
    &["format", "io"],
    &["segment", "manifest", "index", "journal", "catalog", "cold"],
    &["commit", "recovery", "flush", "merge", "scrub", "read", "ship", "restore"],
    // A verification puts recovery's checks and the segments' together, as an open does.
    &["store", "verify", "lib"],
];

/// The layer whose modules are put together by the layer above alone.
const ISLANDS: usize = 3;

const ENGINE: &str = "engine/src";

pub fn check(sources: &[Source]) -> Vec<Problem> {
    let Some(lib) = sources.iter().find(|source| source.path == Path::new(ENGINE).join("lib.rs")) else {
        return vec![Problem::new(Path::new(ENGINE), 1, "lib.rs is missing")];
    };
    let exports = exports(lib);
    let mut problems = unknown_modules(lib);
    for source in sources.iter().filter(|source| source.path.starts_with(ENGINE) && !source.is_test) {
        let Some((module, depth)) = module_of(&source.path) else { continue };
        let Some(layer) = layer_of(&module) else { continue };
        for (at, name) in imports(source, depth) {
            let target = exports.get(&name).unwrap_or(&name);
            let Some(below) = layer_of(target) else { continue };
            let line = source.line(at);
            if below > layer {
                let what = format!("{module} (layer {layer}) imports {target} (layer {below}): imports lead downward");
                problems.push(Problem::new(&source.path, line, what));
            } else if below == ISLANDS && layer == ISLANDS && *target != module {
                let what = format!("{module} imports {target}: modules of layer {ISLANDS} do not know one another");
                problems.push(Problem::new(&source.path, line, what));
            }
        }
    }
    problems
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// The engine's module that a file belongs to, and how many modules deep the file lies.
fn module_of(path: &Path) -> Option<(String, usize)> {
    let parts: Vec<_> =
        path.strip_prefix(ENGINE).ok()?.with_extension("").iter().map(|p| p.to_string_lossy().into_owned()).collect();
    let depth = if parts.last().is_some_and(|last| last == "mod") { parts.len() - 1 } else { parts.len() };
    Some((parts.first()?.clone(), depth))
}

/// Modules that lib.rs declares and the table does not know.
fn unknown_modules(lib: &Source) -> Vec<Problem> {
    let mut problems = Vec::new();
    for at in words(&lib.product, "mod") {
        let name = ident(lib.product[at + 3..].trim_start());
        if !name.is_empty() && layer_of(name).is_none() {
            let what = format!("module {name} has no layer: give it one in the table of `cargo xtask tidy`");
            problems.push(Problem::new(&lib.path, lib.line(at), what));
        }
    }
    problems
}

/// The names that lib.rs re-exports, each with the module it comes from.
fn exports(lib: &Source) -> BTreeMap<String, String> {
    let mut exports = BTreeMap::new();
    for (at, _) in lib.product.match_indices("pub use ") {
        let item = lib.product[at + 8..].split(';').next().unwrap_or_default();
        let item = item.trim_start_matches("self::").trim_start_matches("crate::");
        let module = ident(item);
        for name in item[module.len()..].split(|c: char| !c.is_alphanumeric() && c != '_').filter(|n| !n.is_empty()) {
            exports.insert(name.to_owned(), module.to_owned());
        }
    }
    exports
}

/// What a file at `depth` names at the root of the crate, each with its place.
fn imports(source: &Source, depth: usize) -> Vec<(usize, String)> {
    let code = &source.product;
    let mut found = Vec::new();
    let root = "super::".repeat(depth);
    for prefix in ["crate::", root.as_str()] {
        if prefix.is_empty() {
            continue;
        }
        for at in words(code, prefix.trim_end_matches(':')) {
            let Some(rest) = code[at..].strip_prefix(prefix) else { continue };
            if code[..at].ends_with("::") {
                continue;
            }
            for (offset, name) in heads(rest) {
                found.push((at + prefix.len() + offset, name.to_owned()));
            }
        }
    }
    found
}

/// The first names of a path or of a group of paths: `a::b` gives a, `{a::{b, c}, d}` gives a and d.
fn heads(rest: &str) -> Vec<(usize, &str)> {
    if !rest.starts_with('{') {
        return vec![(0, ident(rest))];
    }
    let mut found = Vec::new();
    let (mut depth, mut wanted) = (0_usize, false);
    for (i, c) in rest.char_indices() {
        match c {
            '{' => {
                depth += 1;
                wanted = depth == 1;
            }
            '}' if depth == 1 => break,
            '}' => depth -= 1,
            ',' => wanted = depth == 1,
            c if wanted && !c.is_whitespace() => {
                found.push((i, ident(&rest[i..])));
                wanted = false;
            }
            _ => {}
        }
    }
    found
}

fn ident(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::source::mark_tests;
    use super::*;

    fn told(files: &[(&str, &str)]) -> Vec<String> {
        let lib = ("lib.rs", "mod format; mod commit; pub use error::{Error, Result}; pub use store::Store;");
        let files = [&[lib], files].concat();
        let mut sources: Vec<_> =
            files.iter().map(|(path, text)| Source::new(&Path::new(ENGINE).join(path), text)).collect();
        mark_tests(&mut sources);
        check(&sources).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn downward_is_allowed() {
        let format = ("format/frame.rs", "use super::bytes; use crate::types::{BLOCK, Lsn}; use crate::Error;");
        let commit = ("commit/mod.rs", "use crate::{format::frame, io::{Io, Op}}; use self::queue::Queue;");
        assert_eq!(told(&[format, commit, ("commit/queue.rs", "use crate::commit::Frame;")]), Vec::<String>::new());
    }

    #[test]
    fn upward_is_not() {
        let problems = told(&[("types.rs", "//! x\nconst N: usize = crate::format::frame::HEADER_LEN;")]);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with("engine/src/types.rs:2: types (layer 0) imports format"), "{problems:?}");
        assert_eq!(told(&[("segment/mod.rs", "use crate::{types::Lsn, recovery::scan};")]).len(), 1);
        assert_eq!(told(&[("segment/mod.rs", "use crate::Store;")]).len(), 1, "a re-export counts as its home");
    }

    #[test]
    fn the_third_layer_is_made_of_islands() {
        assert_eq!(told(&[("flush.rs", "use crate::commit::queue;")]).len(), 1);
        assert_eq!(told(&[("flush/mod.rs", "use super::commit::queue;")]).len(), 1, "super reaches the root here");
        assert_eq!(told(&[("flush/run.rs", "use super::super::commit::queue;")]).len(), 1);
    }

    #[test]
    fn comments_and_tests_may_name_what_they_like() {
        let text = "//! See [`crate::store`].\n#[cfg(test)]\nmod tests { use crate::store::Store; }";
        let declared = ("format/mod.rs", "#[cfg(test)]\nmod samples;");
        let samples = ("format/samples.rs", "use crate::store::Store;");
        assert_eq!(told(&[("types.rs", text), declared, samples]), Vec::<String>::new());
        assert_eq!(told(&[samples]).len(), 1);
    }

    #[test]
    fn a_module_without_a_layer_is_an_error() {
        let lib = Source::new(Path::new("engine/src/lib.rs"), "//! x\npub mod types;\nmod novelty;\n");
        let problems = check(&[lib]);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].to_string().starts_with("engine/src/lib.rs:3: module novelty"), "{problems:?}");
    }

    #[test]
    fn a_missing_engine_is_an_error() {
        assert_eq!(check(&[]).len(), 1);
    }
}
