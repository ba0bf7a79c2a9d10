//! Devices against a stand-in that has lost what they rely on: each test is one way in which an item could be gone for
//! good although a device has it.

use std::fs;

use crate::device::{Device, scratch, stderr};
use crate::stand_in::{Fault, StandIn};

pub const OTHER: &str =
    r#"{"type":"note","key":"other","value":{"encoding":"utf-8","data":"x"},"headers":{"operation":"insert"}}"#;

/// Devices of one user, and the stand-in that they sync with.
pub fn devices<const N: usize>(names: [&str; N]) -> (tempfile::TempDir, StandIn, [Device; N]) {
    let (dir, server) = (scratch(), StandIn::start());
    let devices = names.map(|name| Device::new(dir.path(), name, &server.url()));
    (dir, server, devices)
}

#[test]
fn a_server_that_lost_what_lies_past_the_cursor_is_healed() {
    let (_dir, server, [a, b]) = devices(["a", "b"]);
    b.write("photos/p0.jpg", "p0");
    b.sync();
    a.sync();
    ["p1", "p2"].iter().for_each(|name| b.write(&format!("photos/{name}.jpg"), name));
    b.sync();
    // The first arrives and the second does not, so that the cursor stays where it was.
    let late = blake3::hash(b"p2").to_string();
    server.hook(
        move |_, request| {
            if request.method == "GET" && request.path.ends_with(&late) { Fault::Before } else { Fault::None }
        },
    );
    a.sync_to(1);
    assert!(a.has("photos/p1.jpg") && !a.has("photos/p2.jpg"));
    server.unhook();
    server.world().rewind("photos", 1);
    assert_eq!(a.sync()["pushed"], 1);
    let changes = server.world().changes("photos");
    assert!(changes.iter().any(|change| change.contains("p1.jpg")), "{changes:?}");
}

#[test]
fn a_first_sync_that_broke_off_knows_what_it_was_told() {
    let (_dir, server, [a, b]) = devices(["a", "b"]);
    ["v1", "v2"].iter().for_each(|content| {
        b.write("photos/one.jpg", content);
        b.sync();
    });
    b.write("photos/two.jpg", "late");
    b.sync();
    let late = blake3::hash(b"late").to_string();
    server.hook(
        move |_, request| {
            if request.method == "GET" && request.path.ends_with(&late) { Fault::Before } else { Fault::None }
        },
    );
    a.sync_to(1);
    assert_eq!(a.read("photos/one.jpg"), "v2");
    server.unhook();
    server.world().rewind("photos", 1);
    a.sync();
    assert_eq!(a.read("photos/one.jpg"), "v2");
    assert_eq!(server.world().changes("photos").len(), 2);
}

#[test]
fn an_append_that_was_acknowledged_and_lost_again_is_repeated() {
    let (_dir, server, [a]) = devices(["a"]);
    a.write("notes/one", "v1");
    a.sync();
    a.write("notes/one", "v2");
    server.hook(|_, request| if request.method == "POST" { Fault::After } else { Fault::None });
    a.sync_to(1);
    // The repetition is acknowledged, and then the connection is gone.
    let mut is_through = false;
    server.hook(move |_, request| {
        is_through |= request.method == "POST";
        if is_through && request.method == "GET" { Fault::Before } else { Fault::None }
    });
    a.sync_to(1);
    server.unhook();
    server.world().rewind("notes", 1);
    a.write("notes/one", "v3");
    assert_eq!(a.sync()["conflicts"], 0);
    assert_eq!((a.files().len(), a.read("notes/one")), (1, "v3".to_owned()));
    assert!(server.world().changes("notes").last().is_some_and(|change| change.contains("v3")));
}

#[test]
fn healing_that_broke_off_goes_on_with_what_was_lost() {
    let (_dir, server, [a]) = devices(["a"]);
    for content in ["v1", "v2"] {
        ["one", "two"].iter().for_each(|name| a.write(&format!("photos/{name}.jpg"), format!("{content} {name}")));
        a.sync();
    }
    server.world().rewind("photos", 2);
    // While it is healed, another device adds a photo whose bytes are late.
    let hash = blake3::hash(b"late").to_string();
    let late = format!(
        r#"{{"type":"photo","key":"late.jpg","value":{{"blake3":"{hash}","size":4}},"headers":{{"operation":"insert"}}}}"#
    );
    server.world().inject("photos", &late);
    server.hook(
        move |_, request| {
            if request.method == "GET" && request.path.ends_with(&hash) { Fault::Before } else { Fault::None }
        },
    );
    a.sync_to(1);
    // Only what both sides have agreed on since then is past the cut. That is lost as well.
    server.world().rewind("photos", 2);
    server.unhook();
    assert_eq!(a.sync()["conflicts"], 0);
    assert_eq!((a.read("photos/one.jpg"), a.read("photos/two.jpg")), ("v2 one".to_owned(), "v2 two".to_owned()));
    assert_eq!(server.world().changes("photos").len(), 4);
}

#[test]
fn a_server_that_forgot_does_not_win_over_the_device() {
    let (_dir, server, [a]) = devices(["a"]);
    for content in ["v1", "v2"] {
        a.write("notes/one", content);
        a.sync();
    }
    // Its history is another, and yet it takes the cursor.
    server.world().forget("notes", 1);
    server.world().inject("notes", OTHER);
    a.write("notes/two", "1");
    a.sync();
    assert_eq!((a.read("notes/one"), a.files().len()), ("v2".to_owned(), 3));
    let changes = server.world().changes("notes");
    assert!(changes.iter().rfind(|change| change.contains("one")).is_some_and(|last| last.contains("v2")));
}

#[test]
fn an_empty_folder_is_not_the_wish_to_delete_everything() {
    let (_dir, server, [a]) = devices(["a"]);
    let names = ["notes/one", "notes/two", "notes/three"];
    names.iter().for_each(|name| a.write(name, "1"));
    a.sync();
    // A disk that is not mounted leaves its mount point.
    fs::rename(a.dir.join("notes"), a.dir.join("unmounted")).expect("it is there");
    fs::create_dir(a.dir.join("notes")).expect("there is room");
    let refused = a.sync_to(3);
    assert!(stderr(&refused).contains("--allow-empty"), "{}", stderr(&refused));
    assert_eq!(server.world().changes("notes").len(), 3);
    fs::remove_dir(a.dir.join("notes")).expect("it is empty");
    fs::rename(a.dir.join("unmounted"), a.dir.join("notes")).expect("it is there");
    assert_eq!(a.sync()["deleted"], 0);
    // Few may go without a word, and many with one.
    a.remove(names[0]);
    assert_eq!(a.sync()["deleted"], 1);
    names[1..].iter().for_each(|name| a.remove(name));
    assert_eq!(a.sync()["deleted"], 2);
    names.iter().for_each(|name| a.write(name, "1"));
    a.sync();
    names.iter().for_each(|name| a.remove(name));
    a.sync_to(3);
    let done = a.run("sync", &["--allow-empty", "--json"]);
    assert!(String::from_utf8_lossy(&done.stdout).contains(r#""deleted":3"#), "{done:?}");
}

#[test]
fn a_copy_of_a_lost_version_is_not_deleted_in_the_same_breath() {
    let (_dir, _server, [a, b]) = devices(["a", "b"]);
    a.write("notes/k", "v1");
    a.sync();
    b.sync();
    a.write("notes/k", "x");
    b.write("notes/k", "y");
    b.sync();
    assert_eq!(a.sync()["conflicts"], 1);
    b.sync();
    // The same version loses once more, while the other device deletes the copy of the first time.
    a.write("notes/k", "x");
    let files = b.files();
    let copy = files.keys().find(|name| name.contains(".conflict-")).expect("it was kept");
    b.remove(copy);
    b.write("notes/k", "z");
    b.sync();
    assert_eq!(a.sync()["conflicts"], 1);
    b.sync();
    assert_eq!((a.read("notes/k"), a.read(copy)), ("z".to_owned(), "x".to_owned()));
    assert_eq!(a.files(), b.files());
}

#[test]
fn a_second_version_that_two_devices_kept_is_said_once() {
    let (_dir, server, [a, b, c]) = devices(["a", "b", "c"]);
    a.write("notes/k.txt", "v1");
    for device in [&a, &b, &c] {
        device.sync();
    }
    a.write("notes/k.txt", "x");
    b.write("notes/k.txt", "x");
    c.write("notes/k.txt", "y");
    c.sync();
    assert_eq!(a.sync()["conflicts"], 1);
    // The copy is heard of before the item that it is of.
    let done = b.sync();
    assert_eq!((&done["conflicts"], &done["pushed"]), (&1.into(), &0.into()), "{done}");
    assert_eq!((server.world().changes("notes").len(), a.files() == b.files()), (3, true));
}

#[test]
fn a_folder_that_cannot_be_used_does_not_keep_the_others_waiting() {
    let (_dir, server, [a]) = devices(["a"]);
    fs::remove_dir(a.dir.join("contacts")).expect("it is empty");
    a.write("contacts", "a file");
    a.write("notes/one", "1");
    a.sync_to(5);
    assert_eq!(server.world().changes("notes").len(), 1);
}
