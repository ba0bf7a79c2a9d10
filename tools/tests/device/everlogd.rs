//! Devices against everlogd itself, which is killed, started again, replaced, and put back to an earlier day.
//!
//! Invariant: once all devices have synced, their folders are the same, byte for byte, and hold every edit.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use everlog_tests::folders::{files, fixtures};
use everlog_tests::net::{Proxy, Server};

use crate::device::{Device, code, scratch, stderr};

/// A server on a store, and an address that stays the same while servers come and go.
pub struct World {
    dir: tempfile::TempDir,
    pub proxy: Proxy,
    pub server: Option<Server>,
}

impl World {
    pub fn new() -> Self {
        let mut world = Self { dir: scratch(), proxy: Proxy::start(), server: None };
        world.start("store");
        world
    }

    fn store(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn start(&mut self, store: &str) {
        let server = Server::start(&self.store(store), &[]);
        self.proxy.lead_to(Some(server.address()));
        self.server = Some(server);
    }

    /// As a power cut does.
    fn kill(&mut self) {
        self.proxy.lead_to(None);
        self.server.take().expect("one runs").kill();
    }

    pub fn stop(&mut self) {
        self.proxy.lead_to(None);
        self.server.take().expect("one runs").stop();
    }

    pub fn device(&self, name: &str) -> Device {
        Device::new(self.dir.path(), name, &self.proxy.url())
    }
}

fn copy_dir(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp starts").success());
}

/// The fixtures' items, put into a device's folders.
fn fill(device: &Device) -> BTreeMap<String, Vec<u8>> {
    let mut items = files(&fixtures());
    items.retain(|path, _| {
        ["contacts/", "calendar/", "todos/", "notes/", "photos/"].iter().any(|folder| path.starts_with(folder))
    });
    items.iter().for_each(|(path, bytes)| device.write(path, bytes));
    items
}

#[test]
fn what_real_programs_wrote_comes_back_byte_for_byte_after_a_reset() {
    let mut world = World::new();
    let a = world.device("a");
    let items = fill(&a);
    world.stop();
    let refused = a.run("reset", &["--retry-seconds", "0"]);
    assert_eq!(code(&refused), 3, "{}", stderr(&refused));
    assert!(a.files() == items, "a refusal removes nothing");
    world.start("store");
    let done = a.sync();
    assert_eq!(done["pushed"].as_u64(), Some(items.len() as u64));
    assert_eq!(a.sync()["pushed"], 0);

    world.kill();
    world.start("store");
    let name = a.status()["device"].clone();
    assert_eq!(code(&a.run("reset", &[])), 0);
    assert!(a.files().is_empty());
    assert_ne!(a.status()["device"], name);
    let done = a.sync();
    assert_eq!((done["pulled"].as_u64(), &done["pushed"]), (Some(items.len() as u64), &0.into()));
    assert!(a.files() == items);
    let b = world.device("b");
    b.sync();
    assert!(b.files() == items);
}

#[test]
fn both_versions_of_a_conflict_are_kept_everywhere() {
    let world = World::new();
    let (a, b) = (world.device("a"), world.device("b"));
    a.write("contacts/ada.vcf", "v1");
    a.write("photos/p.jpg", vec![1; 2 << 20]);
    a.sync();
    b.sync();
    a.write("contacts/ada.vcf", "of a");
    b.write("contacts/ada.vcf", "of b");
    a.write("photos/p.jpg", vec![2; 2 << 20]);
    b.write("photos/p.jpg", vec![3; 1 << 20]);
    a.write("notes/same", "same");
    b.write("notes/same", "same");
    a.sync();
    assert_eq!(b.sync()["conflicts"], 2);
    a.sync();
    assert!(a.files() == b.files());
    assert_eq!(a.files().len(), 5, "{:?}", a.files().keys());
    assert_eq!(a.read("contacts/ada.vcf"), "of a");
    let files = a.files();
    let kept = files.keys().find(|path| path.starts_with("contacts/ada.conflict-")).expect("it is kept");
    assert!(kept.ends_with(".vcf") && a.read(kept) == "of b");
    // Nothing is left to do, however often one asks.
    for device in [&a, &b, &a] {
        let done = device.sync();
        assert_eq!((&done["pushed"], &done["pulled"], &done["deleted"]), (&0.into(), &0.into(), &0.into()));
    }
}

#[test]
fn an_edit_wins_over_a_deletion() {
    let world = World::new();
    let (a, b) = (world.device("a"), world.device("b"));
    for name in ["notes/edited there", "notes/edited here", "notes/deleted by both", "notes/deleted"] {
        a.write(name, "v1");
    }
    a.sync();
    b.sync();
    a.remove("notes/edited here");
    b.write("notes/edited here", "v2");
    a.write("notes/edited there", "v2");
    b.remove("notes/edited there");
    a.remove("notes/deleted by both");
    b.remove("notes/deleted by both");
    a.remove("notes/deleted");
    [&a, &b, &a].iter().for_each(|device| _ = device.sync());
    assert_eq!(a.files(), b.files());
    assert_eq!(a.files().keys().collect::<Vec<_>>(), ["notes/edited here", "notes/edited there"]);
    assert!(a.files().values().all(|bytes| bytes == b"v2"));
}

#[test]
fn devices_that_push_at_once_lose_nothing() {
    let world = World::new();
    let devices = ["a", "b", "c"].map(|name| world.device(name));
    let items = 150;
    for (number, device) in devices.iter().enumerate() {
        for i in 0..items {
            device.write(&format!("notes/{number}-{i}"), format!("{number} {i}"));
        }
        device.write("notes/both", format!("of {number}"));
    }
    let syncs: Vec<_> = devices.iter().map(Device::start_sync).collect();
    syncs.into_iter().for_each(|mut sync| assert!(sync.wait().expect("it was started").success()));
    devices.iter().chain(&devices).for_each(|device| _ = device.sync());
    assert_eq!(devices[0].files().len(), 3 * items + 3);
    assert!(devices.iter().all(|device| device.files() == devices[0].files()));
}

#[test]
fn a_server_that_is_killed_over_and_over_costs_nothing() {
    let mut world = World::new();
    let (a, b) = (world.device("a"), world.device("b"));
    for round in 0..6 {
        for i in 0..30 {
            a.write(&format!("contacts/{i}.vcf"), format!("round {round} of a, {i}"));
            b.write(&format!("notes/{round}-{i}"), format!("of b, {i}"));
        }
        a.write("photos/p.jpg", vec![round; (3 << 20) + usize::from(round)]);
        let mut sync = a.start_sync();
        // In the middle of it, as far as a machine under load has a middle.
        while world.proxy.in_flight() == 0 && sync.try_wait().expect("it was started").is_none() {
            std::thread::yield_now();
        }
        world.kill();
        world.start("store");
        assert!(sync.wait().expect("it was started").success());
        b.sync();
        a.sync();
        assert!(a.files() == b.files());
    }
    assert_eq!(a.files().len(), 30 + 6 * 30 + 1);
}

#[test]
fn a_server_put_back_to_an_earlier_day_is_healed_by_its_devices() {
    let mut world = World::new();
    let [a, b] = ["a", "b"].map(|name| world.device(name));
    a.write("notes/kept", "v1");
    a.write("notes/edited", "v1");
    a.write("notes/deleted", "v1");
    a.sync();
    b.sync();
    world.stop();
    copy_dir(&world.store("store"), &world.store("earlier"));
    world.start("store");
    a.write("notes/edited", "v2");
    a.write("notes/new", "v1");
    a.write("photos/new.jpg", vec![8; (2 << 20) + 8]);
    a.remove("notes/deleted");
    a.sync();
    b.sync();
    world.stop();
    // An open after a kill starts a timeline, as a restore does.
    fs::remove_dir_all(world.store("store")).expect("it is there");
    world.start("earlier");
    world.kill();
    world.start("earlier");
    b.write("notes/late", "v1");
    [&b, &a, &b].iter().for_each(|device| assert_eq!(device.sync()["conflicts"], 0));
    assert!(a.files() == b.files());
    let names: Vec<_> = a.files().into_keys().collect();
    assert_eq!(names, ["notes/edited", "notes/kept", "notes/late", "notes/new", "photos/new.jpg"]);
    assert_eq!(a.read("notes/edited"), "v2");
    let c = world.device("c");
    c.sync();
    assert!(c.files() == a.files());
}

#[test]
fn an_edit_after_a_restore_is_not_overwritten_by_a_device_from_before_it() {
    let mut world = World::new();
    let [a, b] = ["a", "b"].map(|name| world.device(name));
    a.write("notes/one", "v1");
    a.sync();
    b.sync();
    world.stop();
    copy_dir(&world.store("store"), &world.store("earlier"));
    world.start("store");
    // Each kill starts a timeline, of none of which the restored server knows.
    for i in 0..4 {
        a.write(&format!("notes/filler {i}"), "v1");
        a.write("notes/one", format!("of a, {i}"));
        a.sync();
        world.kill();
        world.start("store");
    }
    world.kill();
    world.start("earlier");
    world.kill();
    world.start("earlier");
    b.write("notes/one", "of b");
    b.sync();
    a.sync();
    b.sync();
    assert!(a.files() == b.files());
    assert_eq!(a.files().len(), 2 + 4);
    assert!(a.files().values().any(|bytes| bytes == b"of b") && a.files().values().any(|bytes| bytes == b"of a, 3"));
}

#[test]
fn a_reset_takes_nothing_that_a_server_put_back_to_an_earlier_day_has_lost() {
    let mut world = World::new();
    let a = world.device("a");
    a.write("notes/edited", "v1");
    a.sync();
    world.stop();
    copy_dir(&world.store("store"), &world.store("earlier"));
    world.start("store");
    a.write("notes/edited", "v2");
    a.write("photos/new.jpg", vec![8; (1 << 20) + 8]);
    a.sync();
    let before = a.files();
    world.stop();
    world.start("earlier");
    let done = a.run("reset", &[]);
    assert_eq!(code(&done), 0, "{}", stderr(&done));
    assert!(a.files().is_empty());
    a.sync();
    assert!(a.files() == before);
}

#[test]
fn a_server_put_back_behind_what_a_broken_off_sync_was_told_is_healed() {
    let mut world = World::new();
    let [a, b] = ["a", "b"].map(|name| world.device(name));
    b.write("photos/p0.jpg", "p0");
    b.sync();
    a.sync();
    world.stop();
    copy_dir(&world.store("store"), &world.store("earlier"));
    world.start("store");
    b.write("photos/p1.jpg", "p1");
    b.write("photos/p2.jpg", vec![2; 64 << 20]);
    b.sync();
    // The first is there and the second, as far as a machine under load lets it be seen, is on its way.
    let mut sync = a.start_sync();
    while !a.has("photos/p1.jpg") && sync.try_wait().expect("it was started").is_none() {
        std::thread::yield_now();
    }
    sync.kill().expect("it may have ended");
    sync.wait().expect("it was started");
    world.kill();
    world.start("earlier");
    a.sync();
    let c = world.device("c");
    c.sync();
    assert!(a.read("photos/p1.jpg") == "p1" && c.files() == a.files());
}

#[test]
fn another_store_is_refused() {
    let mut world = World::new();
    let a = world.device("a");
    a.write("notes/one", "v1");
    a.sync();
    world.stop();
    world.start("another");
    a.write("notes/two", "v1");
    let refused = a.run("sync", &[]);
    assert_eq!(code(&refused), 3, "{}", stderr(&refused));
    assert_eq!(a.files().len(), 2);
    assert!(stderr(&refused).contains("--keep-files"), "{}", stderr(&refused));
    // Its user decides to begin anew there.
    assert_eq!(code(&a.run("reset", &[])), 3);
    assert_eq!(code(&a.run("reset", &["--keep-files"])), 0);
    assert_eq!(a.sync()["pushed"], 2);
    assert_eq!(a.files().len(), 2);
}

#[test]
fn a_user_may_have_any_name() {
    let world = World::new();
    let devices = ["a", "b"].map(|name| Device { dir: world.dir.path().join(name) });
    for device in &devices {
        let made = device.run("init", &["--server", &world.proxy.url(), "--user", "ä b%2F?#&"]);
        assert_eq!(code(&made), 0, "{}", stderr(&made));
    }
    devices[0].write("notes/a b ä?#%.txt", "v1");
    devices.iter().for_each(|device| _ = device.sync());
    assert_eq!(devices[1].read("notes/a b ä?#%.txt"), "v1");
}
