//! A cold store in memory, for tests.

use super::{ColdStore, PART_BYTES, Part, Put, Source, failed};
use crate::error::Result;
use crate::sync::plain::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

/// What a request is to meet.
pub type Rule = Box<dyn FnMut(&str, &str) -> Fate + Send>;

/// How a request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// As it should.
    Well,
    /// Not at all, and it did nothing.
    Fails,
    /// It did what was asked, and the answer is lost.
    AnswerLost,
}

/// Objects in memory.
pub struct MemCold {
    url: String,
    /// The objects.
    pub objects: Mutex<BTreeMap<String, Vec<u8>>>,
    /// What listings show at most, if they are old.
    pub listed: Mutex<Option<BTreeSet<String>>>,
    /// Asked before each request, with its method (`put`, `get`, `list`) and key.
    pub rule: Mutex<Option<Rule>>,
    /// Whether it is to count as a folder on the data's own device.
    pub dependent: bool,
}

impl MemCold {
    /// An empty one.
    pub fn new(name: &str) -> Self {
        Self {
            url: format!("mem://{name}"),
            objects: Mutex::default(),
            listed: Mutex::default(),
            rule: Mutex::default(),
            dependent: false,
        }
    }

    /// Has each request meet what `rule` says.
    pub fn set(&self, rule: impl FnMut(&str, &str) -> Fate + Send + 'static) {
        *self.rule.lock() = Some(Box::new(rule));
    }

    /// Has every request end well.
    pub fn heal(&self) {
        *self.rule.lock() = None;
    }

    /// The keys that begin with `prefix`.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        self.objects.lock().keys().filter(|key| key.starts_with(prefix)).cloned().collect()
    }

    fn meet<T>(&self, method: &str, key: &str, done: impl FnOnce() -> Result<T>) -> Result<T> {
        let fate = self.rule.lock().as_mut().map_or(Fate::Well, |rule| rule(method, key));
        match fate {
            Fate::Well => done(),
            Fate::Fails => Err(failed(&self.url, "no route to host")),
            Fate::AnswerLost => done().and(Err(failed(&self.url, "timed out"))),
        }
    }
}

impl ColdStore for MemCold {
    fn url(&self) -> &str {
        &self.url
    }

    fn put(&self, key: &str, source: &dyn Source) -> Result<Put> {
        self.meet("put", key, || {
            let bytes = source.read(0, source.len() as usize)?;
            let mut objects = self.objects.lock();
            if objects.contains_key(key) {
                return Ok(Put::Exists);
            }
            objects.insert(key.to_owned(), bytes);
            Ok(Put::Created)
        })
    }

    fn get(&self, key: &str, range: Range<u64>) -> Result<Option<Part>> {
        self.meet("get", key, || {
            let objects = self.objects.lock();
            Ok(objects.get(key).map(|object| {
                let len = object.len();
                let start = (range.start as usize).min(len);
                let part = start..(range.end as usize).clamp(start, len).min(start + PART_BYTES);
                Part { bytes: object[part].to_vec(), len: len as u64 }
            }))
        })
    }

    fn list(&self, prefix: &str, after: &str) -> Result<Vec<String>> {
        self.meet("list", prefix, || {
            let objects = self.objects.lock();
            let listed = self.listed.lock();
            let is_told = |key: &&String| listed.as_ref().is_none_or(|listed| listed.contains(*key));
            let keys = objects.keys().filter(|key| key.starts_with(prefix) && key.as_str() > after).filter(is_told);
            Ok(keys.take(3).cloned().collect())
        })
    }

    fn depends_on(&self, _dir: &Path) -> Result<bool> {
        Ok(self.dependent)
    }
}
