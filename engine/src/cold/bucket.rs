//! A cold store that is a bucket: S3 and what speaks its protocol; Google's and Microsoft's, which are untested.
//!
//! Each has a thread of its own, on which its requests run; callers wait, be they threads of another runtime or not. A
//! call makes one request at a time, and two while it puts an object in parts. What it leaves out: it removes nothing
//! but the parts of a put that failed, and it makes no bucket.
//!
//! Invariants: an object is put under the condition that there is none of its name, but for long ones whose names bear
//! their digest; nothing is called missing because its whole bucket is; an error shows nothing of what a store answered
//! but its status and code, since an answer may quote the request with its credentials.

#[cfg(feature = "s3")]
mod profile;
#[cfg(test)]
mod tests;

use super::connect::Place;
use super::{ColdStore, PART_BYTES, Part, Put, Source};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, Receiver, unbounded};
use futures_util::TryStreamExt;
use object_store::client::HttpError;
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientConfigKey, Error as Failure, GetOptions, MultipartUpload, ObjectStore, PutMode,
    PutMultipartOptions, PutPayload, Result as Answer, RetryConfig,
};
use std::error::Error as StdError;
use std::ops::Range;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// Under which keys bear the digest of what they name.
const SEGMENTS: &str = "segment/";
/// The most keys that a listing gives.
const LISTED_MAX: usize = 1000;
/// The most of a failure's text that is shown, in characters.
const TOLD_MAX: usize = 200;
/// How long one attempt at a request may take.
const TIMES: [(ClientConfigKey, &str); 2] =
    [(ClientConfigKey::ConnectTimeout, "5s"), (ClientConfigKey::Timeout, "30s")];

/// A bucket as a cold store.
#[derive(Debug)]
pub(super) struct Bucket {
    url: String,
    /// Empty, or with a slash at its end.
    prefix: String,
    store: Arc<dyn ObjectStore>,
    /// None only once this is dropped.
    runtime: Option<Runtime>,
}

impl Bucket {
    /// A bucket of S3, or of what speaks its protocol. Where the usual variables (`AWS_…`) give no credentials, they
    /// are looked up once in the shared credentials file.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the environment says what cannot be; [`ErrorKind::Io`] if the system has no more
    /// threads.
    #[cfg(feature = "s3")]
    pub fn s3(place: &Place) -> Result<Self> {
        use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Key, S3ConditionalPut};
        if place.name.ends_with("--x-s3") {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("the bucket of {place} does not list its keys in order"),
            )
            .remedy("take a general purpose bucket, not a directory bucket"));
        }
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(&place.name)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_retry(retries());
        for (key, value) in TIMES {
            builder = builder.with_config(Key::Client(key), value);
        }
        let from = [
            Key::AccessKeyId,
            Key::SecretAccessKey,
            Key::WebIdentityTokenFile,
            Key::ContainerCredentialsRelativeUri,
            Key::ContainerCredentialsFullUri,
        ];
        if from.iter().all(|key| builder.get_config_value(key).is_none())
            && let Some(keys) = profile::keys()?
        {
            builder = builder.with_access_key_id(keys.id).with_secret_access_key(keys.secret);
            if let Some(token) = keys.token {
                builder = builder.with_token(token);
            }
        }
        let client = encrypted(|| builder.build());
        Self::over(place, client)
    }

    /// A bucket of Google's. Untested.
    ///
    /// # Errors
    /// As for S3.
    #[cfg(feature = "gcs")]
    pub fn gcs(place: &Place) -> Result<Self> {
        use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
        let mut builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(&place.name).with_retry(retries());
        for (key, value) in TIMES {
            builder = builder.with_config(GoogleConfigKey::Client(key), value);
        }
        let client = encrypted(|| builder.build());
        Self::over(place, client)
    }

    /// A container of Microsoft's. Untested.
    ///
    /// # Errors
    /// As for S3.
    #[cfg(feature = "azure")]
    pub fn azure(place: &Place) -> Result<Self> {
        use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
        let mut builder = MicrosoftAzureBuilder::from_env().with_container_name(&place.name).with_retry(retries());
        for (key, value) in TIMES {
            builder = builder.with_config(AzureConfigKey::Client(key), value);
        }
        let client = encrypted(|| builder.build());
        Self::over(place, client)
    }

    /// The cold store at `place`, by means of `client`.
    fn over(place: &Place, client: Answer<impl ObjectStore>) -> Result<Self> {
        let client = client.map_err(|failure| {
            Error::new(ErrorKind::Invalid, format!("the cold store {place} cannot be set up: {}", told(&failure)))
                .remedy("see what the environment says of it, and that this machine has certificates of authorities")
        })?;
        // Beside its one thread it has two for the names of hosts, which end when they are idle.
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(2)
            .thread_name("everlog-bucket")
            .enable_all()
            .build()
            .map_err(|e| {
                Error::new(ErrorKind::Io, format!("starting the thread of the cold store {place} failed: {e}"))
            })?;
        let (url, prefix) = (place.to_string(), place.prefix.clone());
        Ok(Self { url, prefix, store: Arc::new(client), runtime: Some(runtime) })
    }

    fn path(&self, key: &str) -> Path {
        Path::from(format!("{}{key}", self.prefix))
    }

    /// Starts `request` on the bucket's thread; what becomes of it comes out of the channel.
    fn start<T: Send + 'static>(
        &self, request: impl Future<Output = Answer<T>> + Send + 'static,
    ) -> Receiver<Answer<T>> {
        let (done, outcome) = unbounded();
        if let Some(runtime) = &self.runtime {
            runtime.spawn(async move {
                let answer = request.await;
                let _nobody_waits = done.send(answer);
            });
        }
        outcome
    }

    fn wait<T>(&self, key: &str, outcome: Receiver<Answer<T>>) -> Result<T> {
        let what = match outcome.into_iter().next() {
            Some(Ok(answer)) => return Ok(answer),
            Some(Err(failure)) => told(&failure),
            None => "the request was given up".to_owned(),
        };
        Err(super::failed(&self.url, format!("{key}: {what}")))
    }

    fn run<T: Send + 'static>(
        &self, key: &str, request: impl Future<Output = Answer<T>> + Send + 'static,
    ) -> Result<T> {
        self.wait(key, self.start(request))
    }

    /// Puts an object whose key bears its digest. The client sets no condition for an object in parts, so that two who
    /// put it at once both do; they put the same bytes.
    fn put_in_parts(&self, key: &str, source: &dyn Source) -> Result<Put> {
        let (store, path) = (Arc::clone(&self.store), self.path(key));
        let begun = self.run(key, async move {
            match get(&*store, &path, 0..1).await? {
                Some(_) => Ok(None),
                None => store.put_multipart_opts(&path, PutMultipartOptions::default()).await.map(Some),
            }
        })?;
        let Some(mut upload) = begun else { return Ok(Put::Exists) };
        let sent = self.send(key, &mut *upload, source);
        let whole = sent.is_ok();
        let ended = self.run(key, async move {
            let completed = if whole { upload.complete().await.map(drop) } else { Ok(()) };
            if !whole || completed.is_err() {
                // What cannot be aborted stays, unseen, until a rule of the bucket's own removes it.
                let _remains = upload.abort().await;
            }
            completed
        });
        sent.and(ended).map(|()| Put::Created)
    }

    /// Sends all parts. None is on its way any more when this returns, so that an abort leaves none behind.
    fn send(&self, key: &str, upload: &mut dyn MultipartUpload, source: &dyn Source) -> Result<()> {
        let (mut at, mut sent, mut before) = (0, Ok(()), None);
        while at < source.len() && sent.is_ok() {
            let len = (source.len() - at).min(PART_BYTES as u64);
            match source.read(at, len as usize) {
                Ok(part) => {
                    let part = self.start(upload.put_part(part.into()));
                    if let Some(before) = before.replace(part) {
                        sent = self.wait(key, before);
                    }
                }
                Err(e) => sent = Err(e),
            }
            at += len;
        }
        match before {
            Some(last) => sent.and(self.wait(key, last)),
            None => sent,
        }
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waits for nothing, so that it may happen on a thread of another runtime too.
            runtime.shutdown_background();
        }
    }
}

impl ColdStore for Bucket {
    fn url(&self) -> &str {
        &self.url
    }

    fn put(&self, key: &str, source: &dyn Source) -> Result<Put> {
        if source.len() > PART_BYTES as u64 && key.starts_with(SEGMENTS) {
            return self.put_in_parts(key, source);
        }
        // Another object as long as that is rare. It is held whole, since its condition matters more.
        let payload = PutPayload::from(source.read(0, source.len() as usize)?);
        let (store, path) = (Arc::clone(&self.store), self.path(key));
        self.run(key, async move {
            match store.put_opts(&path, payload, PutMode::Create.into()).await {
                Ok(_) => Ok(Put::Created),
                // Two puts met, and neither need have won.
                Err(failure) if code(&failure.to_string()) == Some("ConditionalRequestConflict") => Err(failure),
                // Which may be what an earlier attempt of this very request put.
                Err(Failure::AlreadyExists { .. }) => Ok(Put::Exists),
                Err(failure) => Err(failure),
            }
        })
    }

    fn get(&self, key: &str, range: Range<u64>) -> Result<Option<Part>> {
        let (store, path) = (Arc::clone(&self.store), self.path(key));
        let range = range.start..range.end.min(range.start.saturating_add(PART_BYTES as u64));
        self.run(key, async move { get(&*store, &path, range).await })
    }

    fn list(&self, prefix: &str, after: &str) -> Result<Vec<String>> {
        let (store, dir) = (Arc::clone(&self.store), self.path(prefix));
        let offset = (!after.is_empty()).then(|| self.path(after));
        let (prefix, after, within) = (prefix.to_owned(), after.to_owned(), self.prefix.clone());
        self.run(&prefix.clone(), async move {
            let mut found = match &offset {
                Some(offset) => store.list_with_offset(Some(&dir), offset),
                None => store.list(Some(&dir)),
            };
            let mut keys = Vec::new();
            while keys.len() < LISTED_MAX
                && let Some(object) = found.try_next().await?
            {
                let location: &str = object.location.as_ref();
                let key = location.strip_prefix(within.as_str()).unwrap_or_default();
                if key.starts_with(&prefix) && *key > *after {
                    keys.push(key.to_owned());
                }
            }
            keys.sort_unstable();
            Ok(keys)
        })
    }
}

/// The bytes of an object in `range`. That it is missing is believed of an answer to a GET alone: one to a HEAD has no
/// body, and does not tell a missing object from a missing bucket.
async fn get(store: &dyn ObjectStore, path: &Path, range: Range<u64>) -> Answer<Option<Part>> {
    let asked = if range.is_empty() { 0..1 } else { range.clone() };
    let (start, is_empty) = (asked.start, range.is_empty());
    let refused = match store.get_opts(path, GetOptions::new().with_range(Some(asked))).await {
        Ok(found) => {
            let (len, bytes) = (found.meta.size, found.bytes().await?);
            return Ok(Some(Part { bytes: if is_empty { Vec::new() } else { bytes.into() }, len }));
        }
        Err(failure) if is_missing(&failure) => return Ok(None),
        // Stores refuse a range that begins at the end or past it. Was it that?
        Err(failure @ Failure::Generic { .. }) if !causes(&failure).any(|cause| cause.is::<HttpError>()) => failure,
        Err(failure) => return Err(failure),
    };
    match store.get_opts(path, GetOptions::new().with_head(true)).await {
        Ok(found) if found.meta.size <= start => Ok(Some(Part { bytes: Vec::new(), len: found.meta.size })),
        _ => Err(refused),
    }
}

/// How often and how long a request is tried: for about ten seconds, beyond which its last attempt may go on to its own
/// end.
fn retries() -> RetryConfig {
    let (init_backoff, max_backoff) = (Duration::from_millis(100), Duration::from_secs(2));
    let backoff = BackoffConfig { init_backoff, max_backoff, base: 2.0 };
    RetryConfig { backoff, max_retries: 4, retry_timeout: Duration::from_secs(10) }
}

/// Makes a client, whose TLS has its cryptography from `ring` unless the program chose another before.
fn encrypted<T>(build: impl FnOnce() -> T) -> T {
    let _chosen_before = rustls::crypto::ring::default_provider().install_default();
    build()
}

/// Whether the object is missing, and not its bucket with it.
fn is_missing(failure: &Failure) -> bool {
    let text = failure.to_string();
    matches!(failure, Failure::NotFound { .. }) && !matches!(code(&text), Some("NoSuchBucket" | "ContainerNotFound"))
}

/// What happened, in few words and without what a store answered or a setting says.
fn told(failure: &Failure) -> String {
    let text = failure.to_string();
    if text.contains("/latest/api/token") || text.contains("/latest/meta-data/") {
        return "there are no credentials, neither in the environment nor from the machine itself".to_owned();
    }
    if let Some((_, answer)) = text.split_once("Server returned ") {
        let status = answer.strip_prefix("non-2xx status code: ").and_then(|rest| rest.get(..3)).unwrap_or("an error");
        return format!("it answered {}", [status, code(&text).unwrap_or_default()].join(" ").trim_end());
    }
    let root = causes(failure).last().map(ToString::to_string).unwrap_or_default();
    if root == "URL scheme is not allowed" {
        return "plain HTTP is not allowed unless AWS_ALLOW_HTTP=true says so".to_owned();
    }
    // What stands in quotes is a value.
    let plain: Vec<&str> = root.lines().next().unwrap_or_default().split('"').step_by(2).collect();
    plain.join("…").chars().take(TOLD_MAX).collect()
}

/// A store's own word for what went wrong.
fn code(text: &str) -> Option<&str> {
    let (code, _) = text.split_once("<Code>")?.1.split_once("</Code>")?;
    (code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric())).then_some(code)
}

/// A failure, what caused it, and so on.
fn causes<'a>(failure: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(failure), |&cause| cause.source())
}
