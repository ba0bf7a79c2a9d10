//! The Unix socket through which operators change something: `everlogd.sock` in the store's directory.
//!
//! Invariants: it never stands there for others than the server's own user, since the socket has its mode before it has its
//! name; it takes the place of one that was left behind only while this process has the store's lock, and goes when the
//! server stops.

use crate::failure::Failure;
use crate::handlers::{Context, control};
use crate::listener::DRAIN_PATIENCE;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use rustix::fs::{Mode, OFlags, fchmod, open};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};

/// The socket's name in the store's directory.
pub const FILE_NAME: &str = "everlogd.sock";
/// Connections that wait to be taken.
const BACKLOG: i32 = 16;
/// How long an operator's tool may take to send a request's head.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);
/// How long after a failure to take a connection the next attempt is made.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest path of a socket that every system takes.
const PATH_BYTES_MAX: usize = 100;

/// The socket. Dropped, it is gone from its directory.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Makes it in the directory of a store that this process has open.
    ///
    /// # Errors
    /// Exit code 5, with the path.
    pub fn open(data: &Path) -> Result<Self, Failure> {
        let path = data.join(FILE_NAME);
        let failed = |e: io::Error| {
            let cause = format!("the socket {} cannot be made: {e}", path.display());
            Failure::new(5, cause, "move away what lies there, and see whether the file system takes sockets")
        };
        let listener = Self::bind(&path).map_err(failed)?;
        Ok(Self { listener, path })
    }

    fn bind(path: &Path) -> io::Result<UnixListener> {
        match std::fs::symlink_metadata(path) {
            Ok(there) if there.file_type().is_socket() => std::fs::remove_file(path)?,
            Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something else lies there")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket: OwnedFd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        let (near, _dir) = near(path)?;
        bind(&socket, &SocketAddrUnix::new(&near)?)?;
        // Not every system hands the mode on; then it is taken away before anybody is let in.
        if std::fs::symlink_metadata(path)?.mode() & 0o077 != 0 {
            std::fs::remove_file(path)?;
            return Err(io::Error::other("others could open it"));
        }
        listen(&socket, BACKLOG)?;
        UnixListener::from_std(socket.into())
    }

    /// Takes connections until the server begins to stop, then waits for those that are open.
    pub async fn serve(self, context: Arc<Context>) {
        let graceful = GracefulShutdown::new();
        loop {
            let stream = tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "an operator's connection could not be taken");
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                },
                () = context.stopped() => break,
            };
            let connection = graceful.watch(connect(stream, Arc::clone(&context)));
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "an operator's connection ended");
                }
            });
        }
        // Nobody finds it any more.
        drop(self);
        let _ = tokio::time::timeout(DRAIN_PATIENCE, graceful.shutdown()).await;
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Whoever comes next replaces one that is left.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn connect(
    stream: UnixStream, context: Arc<Context>,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> + Send {
    let uid = stream.peer_cred().map_or_else(|_| "unknown".to_owned(), |peer| peer.uid().to_string());
    let service = service_fn(move |request: Request<Incoming>| {
        let (context, actor) = (Arc::clone(&context), format!("operator (uid {uid})"));
        async move { Ok::<_, Infallible>(control::answer(&context, request, actor).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .serve_connection(TokioIo::new(stream), service)
}

/// A path to the socket that is short enough, as a socket's has to be, and what has to stay open for it.
///
/// # Errors
/// The directory cannot be opened.
pub fn near(path: &Path) -> io::Result<(PathBuf, Option<File>)> {
    if path.as_os_str().len() <= PATH_BYTES_MAX {
        return Ok((path.to_owned(), None));
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = File::from(open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?);
    Ok((PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(FILE_NAME), Some(dir)))
}
