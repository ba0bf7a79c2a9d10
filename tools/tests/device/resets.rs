//! What a reset may take away, and what it must not: the last copy of anything.

use crate::device::{code, stderr};
use crate::losses::{OTHER, devices};
use crate::stand_in::Fault;

#[test]
fn a_reset_first_puts_back_what_the_server_lost() {
    let (_dir, server, [a]) = devices(["a"]);
    ["one", "two"].iter().for_each(|name| a.write(&format!("notes/{name}"), name));
    a.sync();
    let before = a.files();
    server.world().rewind("notes", 1);
    assert_eq!(code(&a.run("reset", &[])), 0);
    assert!(a.files().is_empty());
    assert_eq!(a.sync()["pulled"], 2);
    assert_eq!(a.files(), before);
}

#[test]
fn a_reset_that_cannot_ask_the_server_removes_nothing() {
    let (_dir, server, [a]) = devices(["a"]);
    a.write("notes/one", "1");
    a.sync();
    server.hook(|_, _| Fault::Before);
    let refused = a.run("reset", &["--retry-seconds", "0"]);
    assert_eq!(code(&refused), 3, "{}", stderr(&refused));
    assert!(stderr(&refused).contains("could not be reached"), "{}", stderr(&refused));
    assert!(a.has("notes/one"));
    server.unhook();
    assert_eq!((&a.sync()["pulled"], &a.sync()["pushed"]), (&0.into(), &0.into()));
}

#[test]
fn a_reset_removes_nothing_if_anything_was_left_out() {
    let (_dir, _server, [a]) = devices(["a"]);
    a.write("notes/one", "1");
    a.write("notes/large", vec![b'x'; 9 << 20]);
    let refused = a.run("reset", &[]);
    assert_eq!(code(&refused), 3, "{}", stderr(&refused));
    assert!(stderr(&refused).contains("notes/large"), "{}", stderr(&refused));
    assert_eq!(a.files().len(), 2);
}

#[test]
fn an_edit_that_comes_while_a_reset_syncs_stays() {
    let (_dir, server, [a]) = devices(["a"]);
    a.write("notes/one", "1");
    a.sync();
    // Notes are through when the photos' turn comes.
    let path = a.dir.join("notes/one");
    server.hook(move |_, request| {
        if request.path.ends_with("photos") {
            std::fs::write(&path, "edited").expect("there is room");
        }
        Fault::None
    });
    let refused = a.run("reset", &[]);
    assert_eq!(code(&refused), 3, "{}", stderr(&refused));
    assert_eq!(a.read("notes/one"), "edited");
}

#[test]
fn an_edit_of_what_could_not_be_taken_is_pending_and_refuses_a_reset() {
    let (_dir, server, [a]) = devices(["a"]);
    a.write("photos/p.jpg", "v1");
    a.sync();
    // Another device's version has no bytes yet.
    let hash = blake3::hash(b"late").to_string();
    let late = format!(r#"{{"type":"photo","key":"p.jpg","value":{{"blake3":"{hash}","size":4}},"#);
    server.world().inject("photos", &(late + r#""headers":{"operation":"update"}}"#));
    a.sync_to(4);
    a.write("photos/p.jpg", "edited");
    assert_eq!(a.status()["pending"], 1);
    let refused = a.run("reset", &[]);
    assert_eq!(code(&refused), 3, "{}", stderr(&refused));
    assert_eq!(a.read("photos/p.jpg"), "edited");
}

#[test]
fn an_unreadable_last_word_is_told_until_a_readable_one_comes() {
    let (_dir, server, [a]) = devices(["a"]);
    a.write("notes/other", "1");
    a.sync();
    server.world().inject("notes", &OTHER.replace("utf-8", "rot13"));
    for _ in 0..2 {
        let told = a.sync_to(4);
        assert!(stderr(&told).contains("could not be had"), "{}", stderr(&told));
    }
    assert_eq!(a.status()["collections"][3]["unreadable"], 1);
    let refused = a.run("reset", &[]);
    assert_eq!(code(&refused), 3, "{}", stderr(&refused));
    assert_eq!(a.read("notes/other"), "1");
    server.world().inject("notes", OTHER);
    a.sync();
    assert_eq!((a.read("notes/other"), code(&a.run("reset", &[]))), ("x".to_owned(), 0));
}

#[test]
fn a_reset_by_force_asks_nobody() {
    let (_dir, server, [a]) = devices(["a"]);
    a.write("notes/one", "1");
    server.hook(|_, _| Fault::Before);
    assert_eq!(code(&a.run("reset", &["--force"])), 0);
    assert!(a.files().is_empty());
}
