//! Who takes part, and what is said of each.
//!
//! Two are no engines, and show what is left to one: fio writes what everlog's journal writes, and so what the disk can do in
//! those sizes; a bare write path with one write in flight does what each engine with one journal has to, and no more.

pub mod bare;
pub mod everlog;
pub mod fio;
pub mod fjall;
pub mod raft;
pub mod redb;
#[cfg(feature = "rocksdb")]
pub mod rocksdb;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Who takes part.
#[allow(clippy::enum_variant_names, reason = "raft-engine is called so")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
pub enum Engine {
    /// everlog.
    Everlog,
    /// raft-engine as it is shipped.
    RaftEngine,
    /// raft-engine with recycled, prefilled files and without compression.
    RaftEngineTuned,
    /// fjall.
    Fjall,
    /// redb.
    Redb,
    /// RocksDB.
    #[cfg(feature = "rocksdb")]
    Rocksdb,
    /// The disk by itself.
    Fio,
    /// A write path without an engine.
    Bare,
}

impl Engine {
    /// All, in the order of their turns: fio after everlog, since it writes in everlog's sizes.
    pub const ALL: &[Self] = &[
        Self::Everlog,
        Self::Fio,
        Self::Bare,
        Self::RaftEngine,
        Self::RaftEngineTuned,
        Self::Fjall,
        Self::Redb,
        #[cfg(feature = "rocksdb")]
        Self::Rocksdb,
    ];

    /// As it is written on the command line and in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Everlog => "everlog",
            Self::RaftEngine => "raft-engine",
            Self::RaftEngineTuned => "raft-engine-tuned",
            Self::Fjall => "fjall",
            Self::Redb => "redb",
            #[cfg(feature = "rocksdb")]
            Self::Rocksdb => "rocksdb",
            Self::Fio => "fio",
            Self::Bare => "bare",
        }
    }

    /// Its version and its settings, in words.
    pub fn settings(self, commit: &str) -> String {
        match self {
            Self::Everlog => format!("everlog at commit {commit}: {}", everlog::SETTINGS),
            Self::RaftEngine => format!("raft-engine {}: {}", raft::VERSION, raft::SETTINGS),
            Self::RaftEngineTuned => format!("raft-engine-tuned {}: {}", raft::VERSION, raft::TUNED_SETTINGS),
            Self::Fjall => format!("fjall {}: {}", fjall::VERSION, fjall::SETTINGS),
            Self::Redb => format!("redb {}: {}", redb::VERSION, redb::SETTINGS),
            #[cfg(feature = "rocksdb")]
            Self::Rocksdb => format!("rocksdb {}: {}", rocksdb::VERSION, rocksdb::SETTINGS),
            Self::Bare => format!("bare: {}", bare::SETTINGS),
            Self::Fio => {
                format!("{}: {}", fio::version().unwrap_or_else(|e| e), fio::SETTINGS)
            }
        }
    }
}

impl std::fmt::Display for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
