//! Devices against a stand-in that fails on demand: broken connections, races, lost history, foreign stores, kills.
//!
//! Each test tells one way in which a phone could lose or double something, and shows that it does not.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::device::{Device, code, scratch, stderr};
use crate::stand_in::{Fault, StandIn};

const OTHER: &str =
    r#"{"type":"note","key":"other","value":{"encoding":"utf-8","data":"x"},"headers":{"operation":"insert"}}"#;

#[test]
fn a_batch_whose_answer_was_lost_counts_once() {
    let (dir, server) = (scratch(), StandIn::start());
    let a = Device::new(dir.path(), "a", &server.url());
    a.write("notes/one", "1");
    // The server does all it is asked and answers nothing: the sync gives up and does not know.
    server.hook(|_, request| if request.method == "POST" { Fault::After } else { Fault::None });
    let gave_up = a.sync_to(1);
    assert!(stderr(&gave_up).contains("pending"), "{}", stderr(&gave_up));
    assert_eq!(a.status()["collections"][3]["outbox"], 1);
    server.unhook();
    // Another device writes in between.
    server.world().inject("notes", OTHER);
    a.sync();
    assert_eq!(a.read("notes/other"), "x");
    assert_eq!(server.world().changes("notes").len(), 2);
    assert_eq!(a.status()["pending"], 0);
}

#[test]
fn a_server_that_is_away_for_a_moment_is_waited_for() {
    let (dir, server) = (scratch(), StandIn::start());
    let a = Device::new(dir.path(), "a", &server.url());
    a.write("notes/one", "1");
    let mut count = 0;
    server.hook(move |_, _| {
        count += 1;
        match count % 4 {
            0 => Fault::Status(503),
            1 => Fault::Before,
            2 => Fault::After,
            _ => Fault::None,
        }
    });
    a.sync();
    assert_eq!(server.world().changes("notes").len(), 1);
}

#[test]
fn a_race_is_lost_and_planned_again() {
    let (dir, server) = (scratch(), StandIn::start());
    let a = Device::new(dir.path(), "a", &server.url());
    a.sync();
    a.write("notes/one", "mine");
    // Just before the append another device writes the same item.
    let mut first = true;
    server.hook(move |world, request| {
        if request.method == "POST" && std::mem::take(&mut first) {
            world.inject("notes", &OTHER.replace("other", "one"));
        }
        Fault::None
    });
    let done = a.sync();
    assert_eq!((&done["pushed"], &done["pulled"], &done["conflicts"]), (&1.into(), &1.into(), &1.into()));
    assert_eq!(a.read("notes/one"), "x");
    let files = a.files();
    let kept: Vec<_> = files.keys().filter(|name| name.contains(".conflict-")).collect();
    assert_eq!((files.len(), kept.len()), (2, 1), "{:?}", files.keys());
    assert_eq!(a.read(kept[0]), "mine");
}

#[test]
fn a_sync_killed_at_any_request_leaves_no_trace() {
    let killed_at = |step: u64| {
        let (dir, server) = (scratch(), StandIn::start());
        let a = Device::new(dir.path(), "a", &server.url());
        let b = Device::new(dir.path(), "b", &server.url());
        for i in 0..4 {
            a.write(&format!("notes/a{i}"), format!("a{i}"));
            b.write(&format!("contacts/b{i}.vcf"), format!("b{i}"));
        }
        a.write("photos/p.jpg", vec![7; 3 << 20]);
        a.write("notes/both", "of a");
        b.write("notes/both", "of b");
        b.sync();
        // The request is done, its answer is held back, and the device loses power.
        let seen = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&seen);
        server
            .hook(move |_, _| if counter.fetch_add(1, Ordering::SeqCst) >= step { Fault::After } else { Fault::None });
        let mut sync = a.start_sync();
        let mut ended = None;
        while seen.load(Ordering::SeqCst) <= step && ended.is_none() {
            ended = sync.try_wait().expect("it was started");
        }
        sync.kill().expect("it may have ended");
        sync.wait().expect("it was started");
        server.unhook();
        a.sync();
        b.sync();
        a.sync();
        assert_eq!(a.files(), b.files(), "killed at request {step}");
        assert_eq!(a.files().len(), 4 + 4 + 1 + 2, "killed at request {step}: {:?}", a.files().keys());
        assert_eq!(server.world().changes("notes").len(), 4 + 2, "killed at request {step}");
        ended.is_some_and(|status| status.success())
    };
    let steps = (0..200).find(|step| killed_at(*step)).expect("at some request it is through before it is killed");
    assert!(steps > 12, "a sync takes more requests than {steps}");
}

#[test]
fn files_that_were_written_before_a_crash_are_no_conflict_after_it() {
    let (dir, server) = (scratch(), StandIn::start());
    let (a, b) = (Device::new(dir.path(), "a", &server.url()), Device::new(dir.path(), "b", &server.url()));
    a.write("notes/one", "1");
    a.write("notes/two", "2");
    a.sync();
    b.sync();
    a.write("notes/one", "1 edited");
    a.remove("notes/two");
    a.sync();
    let state = b.dir.join(".everlog/state/notes.json");
    let before = fs::read(&state).expect("it is there");
    b.sync();
    fs::write(&state, before).expect("there is room");
    let done = b.sync();
    assert_eq!((&done["conflicts"], &done["pushed"], &done["deleted"]), (&0.into(), &0.into(), &0.into()));
    assert_eq!(a.files(), b.files());
    assert_eq!(server.world().changes("notes").len(), 4);
}

#[test]
fn a_merge_that_lost_power_is_not_taken_for_the_users_work() {
    let (dir, server) = (scratch(), StandIn::start());
    let (a, b) = (Device::new(dir.path(), "a", &server.url()), Device::new(dir.path(), "b", &server.url()));
    a.write("photos/deleted.jpg", "v1");
    a.write("photos/edited.jpg", "v1");
    a.sync();
    b.sync();
    a.remove("photos/deleted.jpg");
    a.write("photos/edited.jpg", "v2");
    a.sync();
    a.write("photos/late.jpg", "v1");
    a.sync();
    // The two are merged, and power goes while the third is on its way.
    let (asked, is_asked) = std::sync::mpsc::channel();
    let late = blake3::hash(b"v1").to_string();
    server.hook(move |_, request| {
        if request.method == "GET" && request.path.ends_with(&late) {
            asked.send(()).expect("the test waits for it");
            return Fault::Before;
        }
        Fault::None
    });
    let mut sync = b.start_sync();
    is_asked.recv().expect("the server runs");
    sync.kill().expect("it runs");
    sync.wait().expect("it was started");
    server.unhook();
    assert!(!b.has("photos/deleted.jpg") && b.read("photos/edited.jpg") == "v2" && !b.has("photos/late.jpg"));
    assert_eq!(b.status()["pending"], 0);
    // Meanwhile both become something else: one is what it once was again.
    a.write("photos/deleted.jpg", "v1");
    a.write("photos/edited.jpg", "v3");
    a.sync();
    let done = b.sync();
    assert_eq!((&done["conflicts"], &done["pushed"], &done["deleted"]), (&0.into(), &0.into(), &0.into()));
    a.sync();
    assert!(a.files() == b.files());
    assert_eq!((a.files().len(), a.read("photos/edited.jpg")), (3, "v3".to_owned()));
}

#[test]
fn devices_put_back_what_a_restored_server_lost() {
    let (dir, server) = (scratch(), StandIn::start());
    let [a, b, c] = ["a", "b", "c"].map(|name| Device::new(dir.path(), name, &server.url()));
    for i in 0..6 {
        a.write(&format!("notes/n{i}"), format!("{i}"));
    }
    [&a, &b, &c].iter().for_each(|device| _ = device.sync());
    // c has not seen what follows: an edit, a deletion, a new item.
    a.write("notes/n0", "edited");
    a.remove("notes/n1");
    a.write("notes/new", "new");
    a.sync();
    b.sync();
    assert_eq!(server.world().changes("notes").len(), 9);
    server.world().rewind("notes", 4);

    let healed = b.sync();
    assert_eq!(healed["conflicts"], 0);
    a.write("notes/n2", "edited after the loss");
    [&a, &c, &b, &a].iter().for_each(|device| assert_eq!(device.sync()["conflicts"], 0));
    assert_eq!(a.files(), b.files());
    assert_eq!(a.files(), c.files());
    assert_eq!(a.files().len(), 6);
    assert_eq!((a.read("notes/n0"), a.read("notes/new")), ("edited".to_owned(), "new".to_owned()));
    assert!(!a.has("notes/n1"));
    // Four were left; n4, n5, n0, n1 and new were put back once; n2 was edited.
    assert_eq!(server.world().changes("notes").len(), 4 + 5 + 1);
}

#[test]
fn an_edit_back_to_an_earlier_version_survives_a_loss_of_history() {
    let (dir, server) = (scratch(), StandIn::start());
    let (a, b) = (Device::new(dir.path(), "a", &server.url()), Device::new(dir.path(), "b", &server.url()));
    for content in ["v1", "v2"] {
        a.write("notes/one", content);
        a.sync();
        b.sync();
    }
    a.write("notes/one", "v1");
    a.sync();
    // The server is back at the first version, as a is; b followed the lost history to the second.
    server.world().rewind("notes", 1);
    [&a, &b, &a].iter().for_each(|device| _ = device.sync());
    assert_eq!(a.files(), b.files());
    assert_eq!((a.files().len(), a.read("notes/one")), (2, "v1".to_owned()));
    assert!(a.files().values().any(|bytes| bytes == b"v2"));
}

#[test]
fn a_stream_that_was_lost_is_put_back_and_deletes_nothing() {
    let (dir, server) = (scratch(), StandIn::start());
    let (a, b) = (Device::new(dir.path(), "a", &server.url()), Device::new(dir.path(), "b", &server.url()));
    a.write("notes/one", "1");
    a.sync();
    b.sync();
    server.world().streams.clear();
    b.sync();
    a.sync();
    assert_eq!((a.read("notes/one"), b.read("notes/one")), ("1".to_owned(), "1".to_owned()));
    assert_eq!(server.world().changes("notes").len(), 1);
}

#[test]
fn a_copied_device_is_noticed_and_loses_nothing() {
    let (dir, server) = (scratch(), StandIn::start());
    let a = Device::new(dir.path(), "a", &server.url());
    a.write("notes/one", "1");
    a.sync();
    let copied = std::process::Command::new("cp").arg("-a").arg(&a.dir).arg(dir.path().join("copy")).status();
    assert!(copied.expect("cp starts").success());
    let copy = Device { dir: dir.path().join("copy") };
    for i in 0..3 {
        a.write(&format!("notes/a{i}"), "of a");
        a.sync();
    }
    copy.write("notes/one", "of the copy");
    copy.sync();
    copy.write("notes/late", "of the copy");
    copy.sync();
    a.sync();
    assert_eq!(a.files(), copy.files());
    assert_eq!((a.files().len(), a.read("notes/one")), (5, "of the copy".to_owned()));
}

#[test]
fn another_store_is_refused_and_nothing_goes() {
    let (dir, server) = (scratch(), StandIn::start());
    let a = Device::new(dir.path(), "a", &server.url());
    a.write("notes/one", "1");
    a.sync();
    a.write("notes/two", "2");
    let before = a.files();
    let other = StandIn::start();
    other.world().store = "store-2".into();
    let refused = a.run("sync", &["--server", &other.url()]);
    assert_eq!(code(&refused), 3, "{}", stderr(&refused));
    assert!(stderr(&refused).contains("device reset"), "{}", stderr(&refused));
    assert_eq!(a.files(), before);
    assert!(other.world().streams.is_empty());
    // The flag held for one call.
    a.sync();
}

#[test]
fn damage_on_the_server_is_not_an_empty_stream() {
    let (dir, server) = (scratch(), StandIn::start());
    let a = Device::new(dir.path(), "a", &server.url());
    a.write("contacts/ada.vcf", "1");
    a.write("notes/one", "1");
    a.sync();
    a.write("notes/two", "2");
    server.hook(|_, request| {
        if request.method == "GET" && request.path.ends_with("contacts") { Fault::Damaged } else { Fault::None }
    });
    a.sync_to(4);
    assert!(a.has("contacts/ada.vcf"));
    assert_eq!(server.world().changes("notes").len(), 2, "the other collections are synced");
}

#[test]
fn keys_that_are_no_names_are_refused_and_the_rest_goes_on() {
    let (dir, server) = (scratch(), StandIn::start());
    let a = Device::new(dir.path(), "a", &server.url());
    let bad = ["../evil", "/etc/evil", "a/b", "..", "", ".hidden", "a\\u0000b", "x.tmp"];
    for key in bad {
        server.world().inject("notes", &OTHER.replace("other", key));
    }
    server.world().inject("notes", r#"{"not":"a change"}"#);
    server.world().inject("notes", OTHER);
    let told = a.sync_to(4);
    let report: serde_json::Value = serde_json::from_slice(&told.stdout).expect("one JSON object");
    assert_eq!(report["skipped"].as_array().expect("a list").len(), bad.len() + 1);
    assert_eq!(a.files().keys().collect::<Vec<_>>(), ["notes/other"]);
    assert!(!dir.path().join("evil").exists() && !a.has("evil"));
    a.sync();
}

#[test]
fn a_missing_folder_is_not_the_wish_to_delete() {
    let (dir, server) = (scratch(), StandIn::start());
    let a = Device::new(dir.path(), "a", &server.url());
    a.write("notes/one", "1");
    a.sync();
    fs::remove_dir_all(a.dir.join("notes")).expect("it is there");
    let refused = a.sync_to(3);
    assert!(stderr(&refused).contains("missing"), "{}", stderr(&refused));
    assert_eq!(server.world().changes("notes").len(), 1);
    assert!(stderr(&refused).contains("--keep-files"), "{}", stderr(&refused));
    assert_eq!(code(&a.run("reset", &["--keep-files"])), 0);
    a.sync();
    assert_eq!(a.read("notes/one"), "1");
}

#[test]
fn a_name_that_is_not_text_is_told_and_the_rest_is_synced() {
    use std::os::unix::ffi::OsStrExt;
    let (dir, server) = (scratch(), StandIn::start());
    let a = Device::new(dir.path(), "a", &server.url());
    fs::write(a.dir.join("notes").join(std::ffi::OsStr::from_bytes(b"\xff.txt")), "x").expect("there is room");
    a.write("notes/one", vec![b'x'; 9 << 20]);
    a.write("notes/two", "2");
    let told = a.sync_to(1);
    assert_eq!(
        serde_json::from_slice::<serde_json::Value>(&told.stdout).expect("JSON")["skipped"][0]["damaged"],
        false
    );
    assert_eq!(server.world().changes("notes").len(), 1);
}

#[test]
fn contents_beyond_what_is_held_are_read_again() {
    let (dir, server) = (scratch(), StandIn::start());
    let (a, b) = (Device::new(dir.path(), "a", &server.url()), Device::new(dir.path(), "b", &server.url()));
    server.world().page_records = 2;
    for i in 0..7_u8 {
        a.write(&format!("notes/n{i}"), vec![b'a' + i; 7 << 20]);
    }
    a.sync();
    a.write("notes/n0", "small by now");
    a.sync();
    b.sync();
    assert!(a.files() == b.files());
}

#[test]
fn a_download_that_breaks_goes_on_and_bytes_that_are_not_the_photos_never_appear() {
    let (dir, server) = (scratch(), StandIn::start());
    let (a, b) = (Device::new(dir.path(), "a", &server.url()), Device::new(dir.path(), "b", &server.url()));
    server.world().page_records = 1;
    let photo: Vec<u8> = (0..20_u32 << 18).flat_map(|i| i.to_le_bytes()).collect();
    a.write("photos/p.jpg", &photo);
    a.write("photos/empty.jpg", "");
    let done = a.sync();
    assert_eq!(done["photo_bytes_uploaded"], photo.len());
    // The connection ends for good after eleven pages.
    let mut left = 11;
    server.hook(move |_, request| {
        let is_photo = request.method == "GET" && request.path.contains("photos/");
        left -= i32::from(is_photo);
        if is_photo && left < 0 { Fault::Before } else { Fault::None }
    });
    b.sync_to(1);
    assert!(!b.has("photos/p.jpg"));
    server.unhook();
    let done = b.sync();
    assert!(done["photo_bytes_downloaded"].as_u64().expect("a number") < photo.len() as u64, "{done}");
    assert!(a.files() == b.files());

    let stream = |world: &mut crate::stand_in::World| {
        let key = world.streams.keys().find(|key| key.len() > 80 && world.streams[*key].records.len() > 1);
        key.expect("the photo's stream").clone()
    };
    let key = stream(&mut server.world());
    server.world().streams.get_mut(&key).expect("it is there").records[3].1[17] ^= 1;
    assert_eq!(code(&b.run("reset", &[])), 0);
    let told = b.sync_to(4);
    assert!(!b.has("photos/p.jpg") && b.has("photos/empty.jpg"), "{}", stderr(&told));
    server.world().streams.get_mut(&key).expect("it is there").records[3].1[17] ^= 1;
    b.sync();
    assert!(a.files() == b.files());
}

#[test]
fn an_upload_goes_on_where_any_device_stopped() {
    let (dir, server) = (scratch(), StandIn::start());
    let (a, b) = (Device::new(dir.path(), "a", &server.url()), Device::new(dir.path(), "b", &server.url()));
    let photo = vec![5_u8; (6 << 20) + 1];
    a.write("photos/p.jpg", &photo);
    b.write("photos/p.jpg", &photo);
    let mut left = 4;
    server.hook(move |_, request| {
        left -= i32::from(request.method == "POST");
        if left < 0 { Fault::Before } else { Fault::None }
    });
    a.sync_to(1);
    server.unhook();
    // The device learns how far the other came from the first chunk, which it sends again.
    assert_eq!(b.sync()["photo_bytes_uploaded"], photo.len() - (4 << 20));
    assert_eq!(a.sync()["photo_bytes_uploaded"], 0);
    assert_eq!(server.world().changes("photos").len(), 1);
}

#[test]
fn a_damaged_state_is_refused_and_a_reset_that_keeps_the_files_begins_anew() {
    let (dir, server) = (scratch(), StandIn::start());
    let a = Device::new(dir.path(), "a", &server.url());
    a.write("notes/one", "1");
    a.sync();
    let path = a.dir.join(".everlog/state/notes.json");
    let mut state = fs::read(&path).expect("it is there");
    let middle = state.len() / 2;
    state[middle] ^= 1;
    fs::write(&path, state).expect("there is room");
    a.sync_to(4);
    assert_eq!(code(&a.run("reset", &[])), 4);
    assert_eq!(code(&a.run("reset", &["--keep-files"])), 0);
    assert_eq!((a.read("notes/one"), a.sync()["conflicts"].clone()), ("1".to_owned(), 0.into()));
    assert_eq!(server.world().changes("notes").len(), 1);
}

#[test]
fn two_syncs_on_one_folder_exclude_each_other() {
    let (dir, server) = (scratch(), StandIn::start());
    let a = Device::new(dir.path(), "a", &server.url());
    // The first is held up by a busy server, and holds the folder meanwhile.
    let (asked, is_asked) = std::sync::mpsc::channel();
    server.hook(move |_, _| {
        asked.send(()).expect("the test waits for it");
        Fault::Status(503)
    });
    let mut first = a.start_sync();
    is_asked.recv().expect("the server runs");
    let second = a.run("sync", &[]);
    assert_eq!(code(&second), 3, "{}", stderr(&second));
    assert!(stderr(&second).contains("Another sync is running"), "{}", stderr(&second));
    server.unhook();
    assert!(first.wait().expect("it was started").success());
}
