//! Devices against a stand-in that holds or says what it should not, and on disks that are full.

use std::fs;

use crate::device::{code, stderr};
use crate::losses::devices;
use crate::stand_in::Fault;

#[test]
fn a_photo_without_room_is_told_and_the_others_come() {
    let (_dir, server, [a, b]) = devices(["a", "b"]);
    server.world().page_records = 1;
    b.write("photos/large.jpg", vec![1; 8 << 20]);
    b.write("photos/small.jpg", "small");
    b.sync();
    let told = a.sync_in_little_room();
    assert_eq!(code(&told), 1, "{}", stderr(&told));
    assert!(stderr(&told).contains("photos/large.jpg"), "{}", stderr(&told));
    assert_eq!(a.read("photos/small.jpg"), "small");
    // What had come of it takes no room.
    let partial = fs::read_dir(a.dir.join(".everlog/partial")).expect("it is there");
    assert_eq!(partial.count(), 0);
    a.sync();
    assert!(a.files() == b.files());
}

#[test]
fn a_photos_stream_that_was_there_is_read_before_it_is_relied_on() {
    let (_dir, server, [a]) = devices(["a"]);
    for (name, held) in [("shorter", "sho"), ("other", "OTHER"), ("longer", "longer and longer")] {
        a.write(&format!("photos/{name}.jpg"), name);
        server.world().put_photo(&blake3::hash(name.as_bytes()).to_string(), held.as_bytes());
    }
    a.write("photos/same.jpg", "same");
    server.world().put_photo(&blake3::hash(b"same").to_string(), b"same");
    a.write("photos/empty.jpg", "");
    server.world().put_photo(&blake3::hash(b"").to_string(), b"x");
    let told = a.sync_to(4);
    let changes = server.world().changes("photos");
    assert!(changes.len() == 1 && changes[0].contains("same.jpg"), "{changes:?}");
    assert!(String::from_utf8_lossy(&told.stdout).contains(r#""photo_bytes_uploaded":0"#));
    assert_eq!(a.status()["pending"], 4);
}

#[test]
fn a_photo_that_has_a_new_name_is_neither_sent_nor_fetched() {
    let (_dir, _server, [a]) = devices(["a"]);
    a.write("photos/old.jpg", "p");
    assert_eq!(a.sync()["photo_bytes_downloaded"], 0);
    fs::rename(a.dir.join("photos/old.jpg"), a.dir.join("photos/new.jpg")).expect("it is there");
    let done = a.sync();
    assert_eq!((&done["photo_bytes_uploaded"], &done["photo_bytes_downloaded"]), (&0.into(), &0.into()));
}

#[test]
fn a_server_that_never_ends_is_given_up() {
    let (_dir, server, [a]) = devices(["a"]);
    let mut position = 0;
    server.hook(move |_, request| {
        if request.method != "GET" {
            return Fault::None;
        }
        position += 1;
        let next = ("Stream-Next-Offset".to_owned(), format!("{:016x}_{position:016x}", 1));
        Fault::Answer(vec![next], b"[]".to_vec())
    });
    let told = a.sync_to(1);
    assert!(stderr(&told).contains("no end"), "{}", stderr(&told));
}

#[test]
fn what_is_no_item_is_told_and_counts_for_nothing() {
    let (_dir, _server, [a]) = devices(["a"]);
    a.write("contacts/ADA.VCF", "x");
    a.write("contacts/.hidden", "x");
    fs::create_dir(a.dir.join("notes/folder")).expect("there is room");
    let done = a.sync();
    let names: Vec<_> = done["notes"].as_array().expect("a list").iter().map(|note| note["name"].clone()).collect();
    assert_eq!(names, ["ADA.VCF", "folder"]);
    assert_eq!(done["skipped"].as_array().map(Vec::len), Some(0));
}

#[test]
fn a_conflict_keeps_a_sentence_for_a_name() {
    let (_dir, _server, [a, b]) = devices(["a", "b"]);
    let name = format!("notes/Dr. {}", "b".repeat(240));
    a.write(&name, "of a");
    b.write(&name, "of b");
    [&a, &b, &a].iter().for_each(|device| _ = device.sync());
    assert_eq!(a.files(), b.files());
    assert_eq!(a.files().len(), 2);
}
