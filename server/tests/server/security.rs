//! What a device may not have, and every way to ask for it all the same. What is listed elsewhere: revoked and expired tokens
//! and those that lie about their algorithm (`auth.rs`, and the unit tests of `auth/jwt`); hidden requests, endless bodies and
//! heads, and the memory that they take (`front.rs`).

use crate::auth::{Served, bearer, header, request, scratch, serve, status};
use crate::program::ask;

const SECRET: &str = "the-recipe-of-the-soup";

/// A server with a stream of bob's and one of alice's, and the token of alice.
fn two_owners(scratch: &std::path::Path) -> (Served, String) {
    let served = serve(scratch);
    let (alice, _) = served.issue("users/alice", "phone");
    let (bob, _) = served.issue("users/bob", "phone");
    for (token, stream, body) in [(&bob, "users/bob/notes", SECRET), (&alice, "users/alice/notes", "mine")] {
        assert_eq!(status(&served.as_device(token, "PUT", stream, body)), 201);
    }
    (served, alice)
}

/// The answer to a request with alice's token, which must not have what bob's streams hold.
fn refused(served: &Served, token: &str, method: &str, target: &str, more: &str, body: &str) -> u16 {
    let answer = ask(&served.address, request(method, target, &(bearer(token) + more), body));
    assert!(!answer.contains(SECRET), "{method} {target}: {answer}");
    assert_eq!(header(&answer, "stream-next-offset"), None, "{method} {target}: {answer}");
    status(&answer)
}

#[test]
fn what_is_anothers_is_refused_however_it_is_written() {
    let scratch = scratch();
    let (served, alice) = two_owners(scratch.path());
    let host = served.address.clone();
    for (path, expected) in [
        ("users/bob/notes", 403),
        ("users/%62ob/notes", 403),
        ("users/b%6Fb/n%6ftes", 403),
        ("users/bob/notes/", 400),
        ("users/bob", 403),
        ("users", 403),
        ("users/alice2/notes", 403),
        ("users/alic/notes", 403),
        ("users/Alice/notes", 403),
        ("USERS/alice/notes", 403),
        ("users/Bob/notes", 403),
        ("users/alice%20/notes", 403),
        ("users/bob%2Fnotes", 400),
        ("users/alice%2F..%2Fbob/notes", 400),
        ("users/alice/../bob/notes", 400),
        ("users/alice/%2e%2e/bob/notes", 400),
        ("users/alice/..%2fbob/notes", 400),
        ("./users/bob/notes", 400),
        ("users/./bob/notes", 400),
        ("users//bob/notes", 400),
        ("/users/bob/notes", 400),
        ("users/alice//../bob/notes", 400),
        ("users/alice%00/../bob/notes", 400),
        ("users/bob/notes%00", 400),
        ("users/%ff/notes", 400),
        ("__everlog/tokens", 404),
        ("%5F_everlog/audit", 404),
        ("__ds/users/bob", 404),
    ] {
        for (method, query, more, body) in [
            ("GET", "", "", ""),
            ("GET", "?offset=snapshot", "", ""),
            ("GET", "?offset=-1&live=long-poll", "", ""),
            ("GET", "?offset=now&live=sse", "", ""),
            ("HEAD", "", "", ""),
            ("PUT", "", "", "x"),
            ("POST", "", "", "x"),
            ("POST", "", "Everlog-Compact: true\r\n", ""),
            ("POST", "", "Stream-Closed: true\r\n", ""),
            ("DELETE", "", "", ""),
        ] {
            for origin in [String::new(), format!("http://{host}")] {
                let target = format!("{origin}/v1/stream/{path}{query}");
                assert_eq!(refused(&served, &alice, method, &target, more, body), expected, "{method} {target}");
            }
        }
    }
    assert!(served.as_device(&alice, "GET", "users/alice/notes", "").ends_with("mine"));
}

#[test]
fn no_fork_and_no_feed_leads_to_another_owner() {
    let scratch = scratch();
    let (served, alice) = two_owners(scratch.path());
    for (source, expected) in [
        ("/v1/stream/users/bob/notes", 403),
        ("/v1/stream/users/%62ob/notes", 403),
        ("/v1/stream/users/bob/nothing", 403),
        ("/v1/stream/users/alice/../bob/notes", 400),
        ("/v1/stream/users/bob%2Fnotes", 400),
        ("/v1/stream/__everlog/tokens", 404),
        ("http://127.0.0.1/v1/stream/users/bob/notes", 404),
        ("users/bob/notes", 404),
    ] {
        let more = format!("Stream-Forked-From: {source}\r\n");
        assert_eq!(refused(&served, &alice, "PUT", "/v1/stream/users/alice/fork", &more, ""), expected, "{source}");
        let sub = more + "Stream-Fork-Offset: 0000000000000000_0000000000000000\r\nStream-Fork-Sub-Offset: 9\r\n";
        assert_eq!(refused(&served, &alice, "PUT", "/v1/stream/users/alice/fork", &sub, ""), expected, "{source}");
    }
    assert_eq!(status(&served.as_device(&alice, "HEAD", "users/alice/fork", "")), 404, "nothing was made");
    let mine = "Stream-Forked-From: /v1/stream/users/alice/notes\r\n";
    assert_eq!(refused(&served, &alice, "PUT", "/v1/stream/users/bob/fork", mine, ""), 403);
    for (owner, expected) in [
        ("users/bob", 403),
        ("users/%62ob", 403),
        ("users", 403),
        ("users/alice2", 403),
        ("Users/Alice", 403),
        ("__everlog", 404),
        ("__everlog/tokens", 404),
    ] {
        for query in ["", "?offset=-1", "?offset=now&live=long-poll", "?offset=-1&live=sse"] {
            let target = format!("/v1/feed/{owner}{query}");
            assert_eq!(refused(&served, &alice, "GET", &target, "", ""), expected, "{target}");
        }
    }
    let target = "/v1/feed/users/alice/../bob";
    assert!(matches!(refused(&served, &alice, "GET", target, "", ""), 400 | 404));
    let feed = ask(&served.address, request("GET", "/v1/feed/users/alice", &bearer(&alice), ""));
    assert!(status(&feed) == 200 && feed.contains("users/alice/notes") && !feed.contains("bob"), "{feed}");
}

#[test]
fn what_operators_have_is_not_on_the_port_of_devices_nor_the_other_way_round() {
    let scratch = scratch();
    let (served, alice) = two_owners(scratch.path());
    for path in ["/metrics", "/status", "/readyz", "/healthz", "/v1/tokens", "/v1/pairings", "/v1/tokens/0", "/"] {
        for method in ["GET", "POST", "DELETE"] {
            let body = "{\"scope\":\"users/bob\",\"device\":\"x\"}";
            assert_eq!(refused(&served, &alice, method, path, "", body), 404, "{method} {path}");
            assert_eq!(status(&ask(&served.address, request(method, path, "", body))), 401, "{method} {path}");
        }
    }
    for path in ["/v1/stream/users/alice/notes", "/v1/feed/users/alice", "/v1/tokens", "/v1/pair"] {
        let answer = ask(&served.admin, request("GET", path, &bearer(&alice), ""));
        assert_eq!(status(&answer), 404, "{path}");
        assert_eq!(status(&ask(&served.admin, request("POST", path, &bearer(&alice), "{}"))), 405, "{path}");
    }
}

#[test]
fn a_cache_that_two_devices_share_has_nothing_to_give_to_the_other() {
    let scratch = scratch();
    let (served, alice) = two_owners(scratch.path());
    let (bob, _) = served.issue("users/bob", "tablet");
    let target = "/v1/stream/users/alice/notes";
    let get = |token: &str, query: &str, more: &str| {
        ask(&served.address, request("GET", &format!("{target}{query}"), &(bearer(token) + more), ""))
    };
    let whole = get(&alice, "", "");
    let tag = header(&whole, "etag").expect("an entity tag").to_owned();
    let has = format!("If-None-Match: {tag}\r\n");
    for (answer, expected) in [
        (whole.clone(), 200),
        (get(&alice, "", &has), 304),
        (get(&alice, "", "Accept-Encoding: gzip\r\n"), 200),
        (get(&alice, "?offset=now", ""), 200),
        (get(&bob, "", &has), 403),
        (get("evl_nothing", "", &has), 401),
    ] {
        assert_eq!(status(&answer), expected, "{answer}");
        let kept = header(&answer, "cache-control").unwrap_or_default();
        assert!(kept.contains("private") || kept.contains("no-store"), "{answer}");
        let varies = answer.lines().filter_map(|line| line.strip_prefix("vary: "));
        assert!(varies.into_iter().any(|names| names.contains("authorization")), "{answer}");
    }
}

#[test]
fn what_would_burst_is_not_opened() {
    let scratch = scratch();
    let (served, alice) = two_owners(scratch.path());
    let more = bearer(&alice) + "X-Test: x\r\n";
    let json = |method: &str, body: &str| {
        let head =
            format!("{method} /v1/stream/users/alice/state HTTP/1.1\r\nContent-Type: application/json\r\n{more}");
        status(&ask(&served.address, format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())))
    };
    assert_eq!(json("PUT", ""), 201);
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        assert_eq!((json("POST", &deep), json("POST", &open.repeat(100_000))), (400, 400));
    }
    assert_eq!(json("POST", "[{\"a\":[1]}]"), 204);
    for coding in ["gzip", "zstd", "deflate", "br", "identity, gzip"] {
        let coded = format!("{more}Content-Encoding: {coding}\r\n");
        let answer = ask(&served.address, request("POST", "/v1/stream/users/alice/notes", &coded, "\u{1f}bomb"));
        assert_eq!(status(&answer), 415, "{coding}");
    }
}
