//! A folder that is a device: whose it is, which server it syncs with, and that only one command at a time changes it.
//!
//! What the device knows of the items is elsewhere. Invariant: a folder is a device if and only if `.everlog/account.json`
//! is there, which `init` writes last; the file holds the token and can be read by its owner alone.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use ureq::http::Uri;

use super::collection::ALL;
use super::disk::{self, failed};
use super::state::{self, State};
use everlog_server::failure::Failure;

const VERSION: u32 = 1;
/// Where the device keeps what is its own.
const HOME: &str = ".everlog";

#[derive(Serialize, Deserialize, Clone)]
pub struct Account {
    version: u32,
    pub server: String,
    pub user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Random, and never the same again: under this name the device writes to its streams.
    pub device: String,
}

/// A folder that was found to be a device.
pub struct Device {
    pub dir: PathBuf,
    pub account: Account,
}

/// Held as long as this process changes the device.
pub struct Lock(#[expect(dead_code, reason = "closing the file gives the lock up")] File);

impl Device {
    /// Where the device's own files are.
    pub fn home(&self) -> PathBuf {
        self.dir.join(HOME)
    }

    pub fn open(dir: &Path) -> Result<Self, Failure> {
        let path = dir.join(HOME).join("account.json");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(Failure::new(
                    3,
                    format!("{} is no device", dir.display()),
                    "make it one with `everlog device init DIR --server URL --user NAME`, or name another folder",
                ));
            }
            Err(e) => return Err(failed("reading", &path)(e)),
        };
        let account: Account = serde_json::from_slice(&bytes).map_err(|e| {
            Failure::new(
                4,
                format!("{} is damaged: {e}", path.display()),
                "keep the item files, remove `.everlog` and make the folder a device anew",
            )
        })?;
        if account.version != VERSION {
            let cause = format!("{} has version {}, which this program does not know", path.display(), account.version);
            return Err(Failure::new(3, cause, "use the program that wrote it, or a later one"));
        }
        Ok(Self { dir: dir.to_owned(), account })
    }

    /// Makes a folder a device. What is in its folders already stays and is pushed by the first sync.
    pub fn create(dir: &Path, server: &str, user: &str, token: Option<String>) -> Result<Self, Failure> {
        let server = check_server(server)?;
        check_user(user)?;
        let account = Account { version: VERSION, server, user: user.to_owned(), token, device: random_id()? };
        let device = Self { dir: dir.to_owned(), account };
        let home = device.home();
        device.refuse_if_made()?;
        for folder in ALL.iter().map(|collection| dir.join(collection.name)) {
            fs::create_dir_all(&folder).map_err(failed("creating", &folder))?;
        }
        for folder in [&home, &home.join("state"), &home.join("tmp"), &home.join("partial")] {
            let made = DirBuilder::new().mode(0o700).recursive(true).create(folder);
            made.map_err(failed("creating", folder))?;
        }
        // Another `init` may have been faster.
        let _lock = device.lock()?;
        device.refuse_if_made()?;
        for collection in ALL {
            state::save(&home, collection, &State::new(device.account.device.clone()))?;
        }
        device.save()?;
        disk::sync_folder(dir)?;
        Ok(device)
    }

    fn refuse_if_made(&self) -> Result<(), Failure> {
        if !self.home().join("account.json").exists() {
            return Ok(());
        }
        let cause = format!("{} is a device already", self.dir.display());
        Err(Failure::new(3, cause, "use it with `everlog device sync`, or name another folder"))
    }

    /// Writes down whose device it is.
    pub fn save(&self) -> Result<(), Failure> {
        let bytes = serde_json::to_vec_pretty(&self.account).expect("the fields are strings and a number");
        disk::replace(&self.home().join("account.json"), &bytes)
    }

    /// Shuts other commands out that would change the device.
    pub fn lock(&self) -> Result<Lock, Failure> {
        let path = self.home().join("lock");
        let open = File::options().create(true).truncate(false).write(true).open(&path);
        let file = open.map_err(failed("opening", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let cause = format!("another sync is running on {}", self.dir.display());
                Err(Failure::new(3, cause, "wait until it has ended, then run the command again"))
            }
            Err(e) => Err(failed("locking", &path)(e.into())),
        }
    }

    /// The flags of one call stand above what `init` wrote.
    pub fn override_with(
        &mut self, server: Option<&str>, user: Option<&str>, token: Option<String>,
    ) -> Result<(), Failure> {
        if let Some(user) = user.filter(|user| *user != self.account.user) {
            return Err(Failure::new(
                3,
                format!("{} is a device of {}, not of {user}", self.dir.display(), self.account.user),
                "leave --user away, or make another folder that user's device",
            ));
        }
        if let Some(server) = server {
            self.account.server = check_server(server)?;
        }
        self.account.token = token.or(self.account.token.take());
        Ok(())
    }
}

/// 128 random bits in hexadecimal digits.
pub fn random_id() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| {
        Failure::new(5, format!("the system gives no random numbers: {e}"), "look after the system, then try again")
    })?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

/// The address without a slash at its end.
fn check_server(server: &str) -> Result<String, Failure> {
    let plain = "name it as http://HOST:PORT";
    if server.starts_with("https://") {
        return Err(Failure::new(2, "https is not there yet: this program speaks plain http", plain));
    }
    let bad = |why: String| Failure::new(2, format!("{server} is no server's address: {why}"), plain);
    let uri: Uri = server.parse().map_err(|e| bad(format!("{e}")))?;
    if uri.scheme_str() != Some("http") || uri.host().is_none_or(str::is_empty) {
        return Err(bad("it does not begin with http:// and a host".into()));
    }
    if uri.query().is_some() {
        return Err(bad("it has a query".into()));
    }
    Ok(server.trim_end_matches('/').to_owned())
}

/// The name becomes one segment of the streams' names.
fn check_user(user: &str) -> Result<(), Failure> {
    let bad = user.is_empty()
        || user.len() > 255
        || matches!(user, "." | "..")
        || user.contains('/')
        || user.chars().any(char::is_control);
    if bad {
        let cause = format!("{user:?} cannot be a user's name");
        return Err(Failure::new(2, cause, "name a user without slashes and control characters, of up to 255 bytes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_is_taken() {
        assert_eq!(check_server("http://127.0.0.1:4437/").expect("plain"), "http://127.0.0.1:4437");
        assert_eq!(check_server("http://h/base").expect("plain"), "http://h/base");
        for bad in ["https://h", "h:4437", "ftp://h", "http://", "", "http://h?x=1"] {
            assert_eq!(check_server(bad).expect_err(bad).code(), 2, "{bad}");
        }
    }

    #[test]
    fn a_user_is_one_segment() {
        assert!(check_user("alice ä").is_ok());
        for bad in ["", ".", "..", "a/b", "a\n"] {
            assert_eq!(check_user(bad).expect_err(bad).code(), 2, "{bad:?}");
        }
    }

    #[test]
    fn a_folder_becomes_a_device_once_and_is_locked_once() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("there is room");
        assert_eq!(Device::open(dir.path()).map(|_| ()).expect_err("no device").code(), 3);
        let made = Device::create(dir.path(), "http://h", "alice", Some("secret".into())).expect("a new one");
        let opened = Device::open(dir.path()).expect("it is one");
        assert_eq!(opened.account.device, made.account.device);
        assert_eq!(opened.account.token.as_deref(), Some("secret"));
        let file = fs::metadata(dir.path().join(".everlog/account.json")).expect("it is there");
        assert_eq!(file.permissions().mode() & 0o777, 0o600);
        let again = Device::create(dir.path(), "http://h", "alice", None);
        assert_eq!(again.map(|_| ()).expect_err("it is one").code(), 3);

        let held = opened.lock().expect("nobody has it");
        assert_eq!(made.lock().map(|_| ()).expect_err("it is held").code(), 3);
        drop(held);
        made.lock().expect("nobody has it any more");
    }
}
