//! Devices against a stand-in that was taken back to an earlier moment on purpose: what is newer is set aside, nothing of it
//! is pushed, and none of it is lost.

use std::collections::BTreeMap;

use crate::device::Device;
use crate::losses::devices;
use crate::stand_in::{Fault, StandIn};

fn texts(items: &[(&str, &str)]) -> BTreeMap<String, String> {
    items.iter().map(|(name, content)| ((*name).to_owned(), (*content).to_owned())).collect()
}

fn files(device: &Device) -> BTreeMap<String, String> {
    let files = device.files().into_iter();
    files.map(|(name, content)| (name, String::from_utf8(content).expect("the tests write text"))).collect()
}

/// Takes a collection back to its first records.
fn take_back(server: &StandIn, collection: &str, keep: usize) {
    let mut world = server.world();
    world.on_purpose = true;
    world.rewind(collection, keep);
}

#[test]
fn what_is_newer_is_set_aside_on_every_device_and_not_pushed() {
    let (_dir, server, [a, b]) = devices(["a", "b"]);
    ["edited", "gone", "kept"].iter().for_each(|name| a.write(&format!("notes/{name}"), "v1"));
    a.sync();
    b.sync();
    a.write("notes/edited", "v2");
    a.write("notes/fresh", "v1");
    a.remove("notes/gone");
    a.sync();
    b.sync();
    // Never pushed, when the server is taken back.
    a.write("notes/kept", "local");
    a.write("notes/unpushed", "local");
    a.remove("notes/edited");
    a.write("notes/edited", "v3");
    take_back(&server, "notes", 3);

    let done = a.sync();
    assert_eq!((&done["set_aside"], &done["pushed"], &done["conflicts"]), (&4.into(), &0.into(), &0.into()), "{done}");
    let back = [("notes/edited", "v1"), ("notes/gone", "v1"), ("notes/kept", "v1")];
    assert_eq!(files(&a), texts(&back));
    let newer = [("notes/edited", "v3"), ("notes/fresh", "v1"), ("notes/kept", "local"), ("notes/unpushed", "local")];
    assert_eq!(a.set_aside(), texts(&newer));
    assert!(a.dir.join(done["set_aside_in"].as_str().expect("it says where")).is_dir());
    assert_eq!(server.world().changes("notes").len(), 3);

    // From here on it syncs as ever; the other device follows that too.
    a.write("notes/kept", "since");
    assert_eq!(a.sync()["pushed"], 1);
    let done = b.sync();
    assert_eq!((&done["set_aside"], &done["pushed"]), (&2.into(), &0.into()), "{done}");
    assert_eq!(files(&b), files(&a));
    assert_eq!(b.set_aside(), texts(&[("notes/edited", "v2"), ("notes/fresh", "v1")]));
    let status = b.status();
    assert_eq!((&status["set_aside"], &status["pending"]), (&2.into(), &0.into()), "{status}");
    assert!(b.dir.join(status["set_aside_in"].as_str().expect("it says where")).is_dir());
    b.write("notes/fresh", "again");
    assert_eq!((b.sync()["pushed"].clone(), a.sync()["pulled"].clone()), (1.into(), 1.into()));
    assert_eq!((b.set_aside().len(), files(&a)), (2, files(&b)));
}

#[test]
fn of_a_stream_that_is_gone_everything_is_set_aside() {
    let (_dir, server, [a]) = devices(["a"]);
    for name in ["one", "two", "three", "four"] {
        a.write(&format!("notes/{name}"), name);
    }
    a.sync();
    {
        let mut world = server.world();
        world.on_purpose = true;
        world.streams.remove("users/alice/notes");
    }
    assert_eq!(a.sync()["set_aside"], 4);
    assert_eq!((a.files().len(), a.set_aside().len()), (0, 4));
    assert_eq!(server.world().changes("notes").len(), 0);
    assert_eq!(a.sync()["set_aside"], 0);
}

#[test]
fn a_rewind_that_broke_off_goes_on_as_one() {
    let (_dir, server, [a]) = devices(["a"]);
    for content in ["v1", "v2"] {
        ["one", "two"].iter().for_each(|name| a.write(&format!("photos/{name}.jpg"), format!("{content} {name}")));
        a.sync();
    }
    take_back(&server, "photos", 2);
    let late = blake3::hash(b"v1 two").to_string();
    server.hook(
        move |_, request| {
            if request.method == "GET" && request.path.ends_with(&late) { Fault::Before } else { Fault::None }
        },
    );
    a.sync_to(1);
    assert_eq!((a.read("photos/one.jpg"), a.read("photos/two.jpg")), ("v1 one".into(), "v2 two".into()));
    server.unhook();
    // Only the device knows by now what the server was.
    server.world().on_purpose = false;
    a.write("photos/three.jpg", "saved meanwhile");
    assert_eq!(a.sync()["pushed"], 0);
    assert_eq!((a.read("photos/one.jpg"), a.read("photos/two.jpg")), ("v1 one".into(), "v1 two".into()));
    let newer = [("photos/one.jpg", "v2 one"), ("photos/three.jpg", "saved meanwhile"), ("photos/two.jpg", "v2 two")];
    assert_eq!(a.set_aside(), texts(&newer));
    assert_eq!(server.world().changes("photos").len(), 2);
}

#[test]
fn an_item_whose_older_version_cannot_be_had_yet_is_set_aside_once_it_can() {
    let (_dir, server, [a]) = devices(["a"]);
    for content in ["v1", "v2"] {
        a.write("photos/one.jpg", content);
        a.sync();
    }
    take_back(&server, "photos", 1);
    let hash = blake3::hash(b"v1").to_string();
    let bytes = server.world().streams.remove(&format!("users/alice/photos/{hash}"));
    a.sync_to(4);
    a.sync_to(4);
    assert_eq!((a.read("photos/one.jpg"), server.world().changes("photos").len()), ("v2".into(), 1));
    server.world().streams.insert(format!("users/alice/photos/{hash}"), bytes.expect("it was there"));
    assert_eq!(a.sync()["set_aside"], 1);
    assert_eq!((files(&a), a.set_aside()), (texts(&[("photos/one.jpg", "v1")]), texts(&[("photos/one.jpg", "v2")])));
    assert_eq!(server.world().changes("photos").len(), 1);
}

#[test]
fn what_is_on_the_server_s_own_disk_alone_is_shown_and_not_removed() {
    let (_dir, server, [a]) = devices(["a"]);
    ["one", "two"].iter().for_each(|name| a.write(&format!("notes/{name}"), "1"));
    a.sync();
    assert_eq!(a.status()["not_cold"], serde_json::Value::Null, "it offers nothing else");
    server.world().cold = Some(1);
    a.sync();
    assert_eq!(a.status()["not_cold"], 1);
    let refused = a.run("reset", &["--retry-seconds", "1"]);
    assert_eq!(crate::device::code(&refused), 3, "{}", crate::device::stderr(&refused));
    assert_eq!(a.files().len(), 2);
    server.world().cold = Some(2);
    let done = a.run("reset", &[]);
    assert_eq!(crate::device::code(&done), 0, "{}", crate::device::stderr(&done));
    assert!(a.files().is_empty());
    a.sync();
    assert_eq!((a.files().len(), a.status()["not_cold"].clone()), (2, 0.into()));
}
