//! The names of the protocol's headers, and of everlog's own (docs/PROTOCOL-EXTENSIONS.md). Lower case, as HTTP/2 wants
//! them.

/// The position behind what was read or appended.
pub const NEXT_OFFSET: &str = "stream-next-offset";
/// `true` where the reader has all there is.
pub const UP_TO_DATE: &str = "stream-up-to-date";
/// `true` where the stream takes no more.
pub const CLOSED: &str = "stream-closed";
/// What a live reader sends back with its next request.
pub const CURSOR: &str = "stream-cursor";
/// A writer's opaque number, compared bytewise.
pub const SEQ: &str = "stream-seq";
/// A sliding time to live, in seconds.
pub const TTL: &str = "stream-ttl";
/// The end of a stream's life.
pub const EXPIRES_AT: &str = "stream-expires-at";
/// The stream that a new one begins as a copy of.
pub const FORKED_FROM: &str = "stream-forked-from";
/// Where in it.
pub const FORK_OFFSET: &str = "stream-fork-offset";
/// And how far behind that.
pub const FORK_SUB_OFFSET: &str = "stream-fork-sub-offset";
/// `base64` where the data of server-sent events is encoded so.
pub const SSE_ENCODING: &str = "stream-sse-data-encoding";

/// A producer's id.
pub const PRODUCER_ID: &str = "producer-id";
/// Its epoch.
pub const PRODUCER_EPOCH: &str = "producer-epoch";
/// The number of its request within the epoch.
pub const PRODUCER_SEQ: &str = "producer-seq";
/// The number that would have been accepted.
pub const PRODUCER_EXPECTED_SEQ: &str = "producer-expected-seq";
/// The number that was not.
pub const PRODUCER_RECEIVED_SEQ: &str = "producer-received-seq";

/// The store's id, on every answer.
pub const STORE: &str = "everlog-store";
/// Why an answer is an error, where its status alone does not say.
pub const ERROR: &str = "everlog-error";
/// The store's present timeline.
pub const TIMELINE: &str = "everlog-timeline";
/// Where the history that was asked for and the stream's part.
pub const CUT: &str = "everlog-cut";
/// Beside a position that the history does not lead to: `heal` where what is missing is to be appended again, `rewind` where
/// it is to be set aside.
pub const TIMELINE_CAUSE: &str = "everlog-timeline-cause";
/// How safe what was appended is: `local` is on this machine's stable storage, `cold` is verified in a cold store as well.
/// In a request, how safe it is to be before it is answered.
pub const DURABILITY: &str = "everlog-durability";
/// Everything of the stream before this position is verified in a cold store.
pub const COLD_OFFSET: &str = "everlog-cold-offset";
/// The end that the stream must have for the append to hold.
pub const EXPECT_OFFSET: &str = "everlog-expect-offset";

/// Which of the streams that had this name it is: another value, another stream.
pub const STREAM: &str = "everlog-stream";
/// `true` where a stream of changes is to begin with its own snapshot from now on.
pub const COMPACT: &str = "everlog-compact";
/// Names a request in the log and in its answer.
pub const REQUEST_ID: &str = "x-request-id";

/// What a page of another origin may send.
pub const ALLOWED: &str = "authorization, content-type, if-none-match, stream-seq, stream-ttl, stream-expires-at, stream-closed, \
    stream-forked-from, stream-fork-offset, stream-fork-sub-offset, producer-id, producer-epoch, producer-seq, \
    everlog-expect-offset, everlog-durability, everlog-compact, x-request-id";
/// What it may see.
pub const EXPOSED: &str = "etag, location, content-type, retry-after, stream-next-offset, stream-up-to-date, \
    stream-closed, stream-cursor, stream-ttl, stream-expires-at, stream-sse-data-encoding, producer-epoch, producer-seq, \
    producer-expected-seq, producer-received-seq, everlog-store, everlog-error, everlog-timeline, everlog-cut, \
    everlog-timeline-cause, everlog-durability, everlog-cold-offset, everlog-stream, x-request-id, www-authenticate";
