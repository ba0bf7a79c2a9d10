//! `everlog device`: makes a folder a device that syncs contacts, calendar, to-dos, notes and photos with a server.
//!
//! One file is one item. Here are the arguments; each role has a file of its own. Invariant: no command deletes the last
//! copy of an item, or takes what it could not read for something that is not there.

mod account;
mod aside;
mod clock;
mod collection;
mod digest;
mod disk;
mod folder;
mod heal;
mod history;
mod http;
mod item;
mod merge;
mod photos;
mod pull;
mod push;
mod remote;
mod report;
mod reset;
mod session;
mod snapshot;
mod state;
mod status;
mod sync;
mod word;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use account::Device;
use everlog_server::failure::Failure;
use reset::Scope;
use sync::Manner;

pub const EXAMPLES: &str = "Examples:
  everlog device init ./phone --server http://127.0.0.1:4437 --user alice
  cp ada.vcf ./phone/contacts/
  everlog device sync ./phone
  everlog device status ./phone --json
  everlog device reset ./phone

One file is one item: contacts/*.vcf, calendar/*.ics, todos/*.ics, notes/*, photos/*. Hidden files, folders, links and
names that end in ~ or .tmp are no items. If both sides edited an item, the server's version keeps the name and the other
is kept as NAME.conflict-HASH; an edit wins over a deletion.";

#[derive(Subcommand)]
pub enum Command {
    /// Make a folder a device; files that are in it already are pushed by the first sync
    #[command(after_help = "Example:\n  everlog device init ./phone --server http://127.0.0.1:4437 --user alice")]
    Init {
        /// The folder
        dir: PathBuf,
        /// The server's address
        #[arg(long, value_name = "URL")]
        server: String,
        /// Whose device it is
        #[arg(long, value_name = "NAME")]
        user: String,
        /// What the server wants to see of this user
        #[arg(long, value_name = "T", env = "EVERLOG_TOKEN", hide_env_values = true)]
        token: Option<String>,
        /// One JSON object on stdout
        #[arg(long)]
        json: bool,
    },
    /// Push what changed here, pull what changed elsewhere
    #[command(
        after_help = "Examples:\n  everlog device sync ./phone\n  everlog device sync ./phone --retry-seconds 60 \
                            --json\n\nExits 1 if something was left out or the server could not be reached, 3 if \
                            another store answers or a folder lost all its items, 4 if records could not be had."
    )]
    Sync {
        #[command(flatten)]
        which: Which,
        /// How long to try to reach the server
        #[arg(long, value_name = "S", default_value_t = 10)]
        retry_seconds: u64,
        /// Take a folder without any item for the wish to delete them all; needed where there were more than two
        #[arg(long)]
        allow_empty: bool,
    },
    /// Show what is synced and what waits; works without the server
    #[command(after_help = "Examples:\n  everlog device status ./phone\n  everlog device status ./phone --json")]
    Status {
        #[command(flatten)]
        which: Which,
    },
    /// Forget items and state but not the account, after a full sync; the next sync brings all back
    #[command(
        after_help = "Examples:\n  everlog device reset ./phone\n  everlog device reset ./phone --keep-files\n\nExits 3 \
                            and removes nothing unless a sync has just shown that the server has every item; what is \
                            edited meanwhile stays, and then it exits 3 as well. With --keep-files the next sync \
                            merges the files with whatever store is there."
    )]
    Reset {
        #[command(flatten)]
        which: Which,
        /// Remove everything without asking the server, also what is nowhere else
        #[arg(long, conflicts_with = "keep_files")]
        force: bool,
        /// Forget the state alone
        #[arg(long)]
        keep_files: bool,
        /// How long to try to reach the server
        #[arg(long, value_name = "S", default_value_t = 10)]
        retry_seconds: u64,
    },
}

/// A device, and what holds for one call only.
#[derive(Args)]
pub struct Which {
    /// The device's folder
    dir: PathBuf,
    /// Another address than the one given to init, for this call
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Whose device it must be
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Another token than the one given to init, for this call
    #[arg(long, value_name = "T", env = "EVERLOG_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
}

impl Which {
    fn open(&self) -> Result<Device, Failure> {
        Device::open(&self.dir)
    }

    /// The device as this call's flags want it. It is not to be saved.
    fn open_overridden(&self) -> Result<Device, Failure> {
        let mut device = self.open()?;
        device.override_with(self.server.as_deref(), self.user.as_deref(), self.token.clone())?;
        Ok(device)
    }
}

pub fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Init { dir, server, user, token, json } => {
            let device = Device::create(dir, server, user, token.clone())?;
            let mut out = std::io::stdout();
            if *json {
                let made = serde_json::json!({ "device": device.account.device, "server": device.account.server, "user": user });
                writeln!(out, "{made}")?;
            } else {
                writeln!(out, "made {} device {} of {user}", dir.display(), device.account.device)?;
            }
            Ok(())
        }
        Command::Sync { which, retry_seconds, allow_empty } => {
            let manner = Manner { patience: Duration::from_secs(*retry_seconds), allow_empty: *allow_empty };
            sync::run(&which.open_overridden()?, manner, which.json)
        }
        Command::Status { which } => status::run(&which.open_overridden()?, which.json),
        Command::Reset { which, force, keep_files, retry_seconds } => {
            // What the flags say holds for the sync; what is saved is what init wrote, but for the device's name.
            let (reached, mut device) = (which.open_overridden()?, which.open()?);
            let scope = match (force, keep_files) {
                (_, true) => Scope::State,
                (true, false) => Scope::Everything,
                (false, false) => Scope::Safe,
            };
            reset::run(&mut device, &reached, scope, Duration::from_secs(*retry_seconds), which.json)
        }
    }
}
