//! Devices whose stream no longer keeps what they had followed: they take its snapshot, and neither lose what they
//! changed nor bring back what others deleted.

use std::collections::BTreeMap;

use everlog_tests::net::ask;

use crate::device::{Device, code, scratch, stderr};
use crate::everlogd::World;

/// Enough for many pages, and for a phone.
const CONTACTS: usize = 50_000;

impl World {
    fn restart(&mut self) {
        self.stop();
        self.start("store");
    }

    fn ask(&self, method: &str, collection: &str, headers: &[(&str, &str)], body: &str) -> u16 {
        let address = self.server.as_ref().expect("it runs").address();
        ask(address, method, &format!("/v1/stream/users/alice/{collection}"), headers, body.as_bytes()).status
    }

    /// Has what led to a collection's state given up.
    fn compact(&self, collection: &str) {
        assert_eq!(self.ask("POST", collection, &[("Everlog-Compact", "true")], ""), 204);
    }
}

#[test]
fn a_device_that_was_away_for_too_long_ends_like_the_others() {
    let mut world = World::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| world.device(name));
    let item = |folder: &str, what: &str| {
        if folder == "photos" { format!("photos/{what}.jpg") } else { format!("notes/{what}") }
    };
    let all = [
        "kept",
        "edited there",
        "edited here",
        "edited by both",
        "deleted there",
        "deleted here",
        "deleted by both",
        "deleted there, edited here",
        "edited there, deleted here",
        "deleted there and made anew",
        "same edit",
    ];
    for folder in ["notes", "photos"] {
        all.iter().for_each(|what| a.write(&item(folder, what), format!("v1 of {what}")));
        c.write(&item(folder, "of c alone"), "v1");
    }
    [&a, &c, &b, &a].iter().for_each(|device| _ = device.sync());
    assert!(a.files() == c.files() && c.files().len() == 24);
    for folder in ["notes", "photos"] {
        for what in ["edited here", "edited by both", "deleted there, edited here", "new here"] {
            c.write(&item(folder, what), format!("here: {what}"));
        }
        c.write(&item(folder, "same edit"), "the same");
        ["deleted here", "deleted by both", "edited there, deleted here"]
            .iter()
            .for_each(|what| c.remove(&item(folder, what)));
        for what in ["edited there", "edited by both", "edited there, deleted here", "new there"] {
            a.write(&item(folder, what), format!("there: {what}"));
        }
        a.write(&item(folder, "same edit"), "the same");
        for what in ["deleted there", "deleted by both", "deleted there, edited here", "deleted there and made anew"] {
            a.remove(&item(folder, what));
        }
        a.sync();
        world.compact(folder);
        a.write(&item(folder, "deleted there and made anew"), "made anew");
        a.remove(&item(folder, "of c alone"));
        a.sync();
        world.compact(folder);
        // Two compactions, and something behind the last.
        a.write(&item(folder, "after all"), "v1");
        a.sync();
    }
    world.restart();
    [&c, &a, &b, &c].iter().for_each(|device| _ = device.sync());
    assert!(a.files() == c.files() && b.files() == c.files(), "{:?} {:?}", a.files().keys(), c.files().keys());
    for folder in ["notes", "photos"] {
        let mut expected: BTreeMap<String, String> = BTreeMap::new();
        let mut has = |what: &str, content: &str| expected.insert(item(folder, what), content.to_owned());
        has("kept", "v1 of kept");
        has("edited there", "there: edited there");
        has("edited there, deleted here", "there: edited there, deleted here");
        has("edited here", "here: edited here");
        has("deleted there, edited here", "here: deleted there, edited here");
        has("edited by both", "there: edited by both");
        has("deleted there and made anew", "made anew");
        for (what, content) in [("new here", "here: new here"), ("new there", "there: new there"), ("after all", "v1")]
        {
            has(what, content);
        }
        has("same edit", "the same");
        let mut files = c.files();
        files.retain(|path, _| path.starts_with(folder));
        let conflict = files.keys().find(|path| path.contains(".conflict-")).cloned().expect("both versions are kept");
        assert_eq!(files.remove(&conflict).expect("it is there"), b"here: edited by both");
        let files: BTreeMap<_, _> = files.into_iter().map(|(path, bytes)| (path, String::from_utf8(bytes))).collect();
        assert_eq!(files, expected.into_iter().map(|(path, text)| (path, Ok(text))).collect());
    }
    // Nothing is left to do, and a new device sees the same.
    let done = c.sync();
    assert_eq!((&done["pushed"], &done["pulled"], &done["deleted"]), (&0.into(), &0.into(), &0.into()));
    let d = world.device("d");
    d.sync();
    assert!(d.files() == c.files());
}

#[test]
fn a_reset_deletes_what_was_there_and_no_change_that_was_made_here() {
    let world = World::new();
    let [a, b] = ["a", "b"].map(|name| world.device(name));
    let notes = ["gone", "edited here", "deleted here", "made anew"];
    notes.iter().for_each(|what| a.write(&format!("notes/{what}"), format!("v1 of {what}")));
    [&a, &b].iter().for_each(|device| _ = device.sync());
    let json = [("Content-Type", "application/json")];
    assert_eq!(world.ask("POST", "notes", &json, r#"{"headers":{"control":"reset"}}"#), 204);
    b.write("notes/edited here", "here");
    b.remove("notes/deleted here");
    b.sync();
    a.write("notes/made anew", "v2");
    [&a, &b].iter().for_each(|device| _ = device.sync());
    let expected = ["notes/edited here", "notes/made anew"];
    for device in [&a, &b] {
        assert!(device.files().keys().eq(expected), "{:?}", device.files().keys());
    }
    assert_eq!(b.files()["notes/edited here"], b"here");
    // Whoever reads all of it from the beginning, or its snapshot, sees the same.
    for name in ["c", "d"] {
        let device = world.device(name);
        device.sync();
        assert!(device.files() == a.files(), "{:?}", device.files().keys());
        world.compact("notes");
    }
}

#[test]
fn a_snapshot_that_is_cut_at_every_page_is_gone_on_with() {
    let mut world = World::new();
    // In memory, where there is room: each of so many files waits for its disk, which shows nothing here.
    let memory = tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| scratch());
    let a = Device::new(memory.path(), "a", &world.proxy.url());
    a.write("contacts/0 first.vcf", "deleted there");
    a.write("contacts/00025.vcf", "v0");
    a.write("contacts/zz last.vcf", "edited here");
    a.sync();
    a.write("contacts/zz last.vcf", "edited here, twice");
    let json = [("Content-Type", "application/json")];
    let (mut expected, mut batch) = (BTreeMap::new(), Vec::new());
    for n in 0..CONTACTS {
        let (key, data) = (format!("{n:05}.vcf"), format!("BEGIN:VCARD {n} {}", "x".repeat(100)));
        batch.push(format!(
            r#"{{"type":"contact","key":"{key}","value":{{"content_type":"text/vcard","encoding":"utf-8","data":"{data}"}},"headers":{{"operation":"insert"}}}}"#
        ));
        expected.insert(format!("contacts/{key}"), data.into_bytes());
        if batch.len() == 5000 || n + 1 == CONTACTS {
            assert_eq!(world.ask("POST", "contacts", &json, &format!("[{}]", batch.join(","))), 204);
            batch.clear();
        }
    }
    for key in ["0 first.vcf", "zz last.vcf"] {
        let gone = format!(r#"{{"type":"contact","key":"{key}","headers":{{"operation":"delete"}}}}"#);
        assert_eq!(world.ask("POST", "contacts", &json, &gone), 204);
    }
    expected.insert("contacts/zz last.vcf".into(), b"edited here, twice".to_vec());
    world.compact("contacts");
    let (mut cuts, mut pages) = (0, 0);
    loop {
        world.proxy.let_reads("offset=snapshot", 1);
        let synced = a.run("sync", &["--retry-seconds", "0"]);
        pages += world.proxy.let_reads("offset=snapshot", 0);
        if code(&synced) == 0 {
            break;
        }
        assert_eq!(code(&synced), 1, "{}", stderr(&synced));
        cuts += 1;
        if cuts == 3 {
            world.restart();
        }
        assert!(cuts < 1000, "it gets nowhere");
    }
    eprintln!("{cuts} cuts");
    assert!(cuts > 5, "{cuts} cuts");
    assert_eq!(pages, cuts + 1, "no page was read twice");
    assert!(a.files() == expected, "{} files, expected {}", a.files().len(), expected.len());
    assert_eq!(a.sync()["pushed"], 0);
}

#[test]
fn of_a_stream_that_was_created_again_nothing_is_taken_for_deleted() {
    let world = World::new();
    let [a, b] = ["a", "b"].map(|name| world.device(name));
    a.write("notes/of a", "v1");
    a.sync();
    b.sync();
    b.write("notes/of b", "v1");
    b.sync();
    assert_eq!(world.ask("DELETE", "notes", &[], ""), 204);
    // It knows nothing of what the other one had pushed, and puts back what it has.
    a.sync();
    world.compact("notes");
    b.sync();
    a.sync();
    assert!(a.files() == b.files());
    assert_eq!(a.files().len(), 2);
}
