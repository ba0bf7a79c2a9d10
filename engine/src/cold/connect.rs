//! From a URL to the cold store that it names: `file://PATH`, `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`,
//! `az://CONTAINER/PREFIX`.
//!
//! What it leaves out: it asks no store for anything, so that the first request finds out whether there is one; and
//! where credentials come from, which is for `bucket`.
//!
//! Invariant: no credentials come in by a URL, and an error repeats nothing of one that may be such.

#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
use super::bucket::Bucket;
use super::{ColdStore, DirStore};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Arc;
use std::fmt;
use std::path::{Path, PathBuf};

/// What can be given.
const FORMS: &str = "give file://PATH, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX";

/// Where in an object store a cold store lies. It is written as its URL.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// `s3`, `gs` or `az`.
    pub scheme: String,
    /// The bucket's or container's.
    pub name: String,
    /// What all keys begin with: empty, or with a slash at its end.
    pub prefix: String,
}

/// The cold store that `url` names. Nothing is asked of it yet.
///
/// A folder's path is taken as it stands, without percent-decoding; a relative one begins at `relative_to`. Credentials
/// and what else a bucket needs come from the environment: the variables `AWS_…` (`AWS_ENDPOINT_URL`, `AWS_REGION`,
/// `AWS_ALLOW_HTTP`, `AWS_ACCESS_KEY_ID` and others) or a profile of the shared credentials file; `GOOGLE_…`;
/// `AZURE_…`. `gs` and `az` are untested.
///
/// # Errors
/// [`ErrorKind::Invalid`] if `url` names no cold store, or one of a kind that this program was built without, or if the
/// environment says what cannot be; [`ErrorKind::Io`] if there is no working directory, or if the system has no more
/// threads.
pub fn connect(url: &str, relative_to: &Path) -> Result<Arc<dyn ColdStore>> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(invalid("what is to name a cold store is no URL", FORMS));
    };
    match scheme {
        "file" => Ok(Arc::new(DirStore::new(folder(rest, relative_to)?))),
        "s3" | "gs" | "az" => open(&Place::parse(scheme, rest)?),
        _ if scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => {
            Err(invalid(format!("there are no cold stores of the kind {scheme}://"), FORMS))
        }
        _ => Err(invalid("what is to name a cold store is no URL", FORMS)),
    }
}

fn invalid(what: impl Into<String>, remedy: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, what).remedy(remedy)
}

/// The folder that a URL names, as an absolute path.
fn folder(path: &str, relative_to: &Path) -> Result<PathBuf> {
    if path.is_empty() {
        return Err(invalid("file:// names no folder", "name one, as in file:///mnt/backup or file://./everlog-cold"));
    }
    let path = relative_to.join(path);
    let path = std::path::absolute(&path).map_err(|e| Error::io("finding the working directory", &path, e))?;
    Ok(path.components().collect())
}

/// The bucket at `place`.
fn open(place: &Place) -> Result<Arc<dyn ColdStore>> {
    match place.scheme.as_str() {
        #[cfg(feature = "s3")]
        "s3" => Ok(Arc::new(Bucket::s3(place)?)),
        #[cfg(feature = "gcs")]
        "gs" => Ok(Arc::new(Bucket::gcs(place)?)),
        #[cfg(feature = "azure")]
        "az" => Ok(Arc::new(Bucket::azure(place)?)),
        scheme => {
            let feature = match scheme {
                "gs" => "gcs",
                "az" => "azure",
                _ => "s3",
            };
            let what = format!("{place} cannot be had: this program was built without that kind of cold store");
            Err(invalid(what, format!("build it with everlog's feature `{feature}`")))
        }
    }
}

impl Place {
    fn parse(scheme: &str, rest: &str) -> Result<Self> {
        if rest.contains('@') {
            let what = format!("the {scheme}:// URL of a cold store bears credentials");
            return Err(invalid(what, "take them out of it, and give them by the environment"));
        }
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if name.is_empty() {
            let what = format!("the {scheme}:// URL of a cold store names no bucket");
            return Err(invalid(what, format!("name one, as in {scheme}://BUCKET/PREFIX")));
        }
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        if !is_plain(name) || !(prefix.is_empty() || prefix.split('/').all(is_plain)) {
            let what =
                format!("the {scheme}:// URL of a cold store has a part that is empty, . or .., or is not plain");
            return Err(invalid(what, "make each part of a bucket's URL of letters, digits, - . _ and = alone"));
        }
        let slash = if prefix.is_empty() { "" } else { "/" };
        Ok(Self { scheme: scheme.to_owned(), name: name.to_owned(), prefix: format!("{prefix}{slash}") })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.name)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix.trim_end_matches('/')) }
    }
}

/// Whether a part of a bucket's URL means the same to every store, encoded or not.
fn is_plain(part: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._=".contains(&b);
    !matches!(part, "" | "." | "..") && part.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> Error {
        let error = connect(url, Path::new("/base")).err().expect("it names no cold store");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
        assert!(error.advice().is_some(), "{url}");
        error
    }

    #[test]
    fn a_folder_is_absolute_or_relative_to_what_is_given() {
        let folder = |path| folder(path, Path::new("/base")).expect("it names a folder");
        assert_eq!(folder("/mnt/backup/"), Path::new("/mnt/backup"));
        for path in ["./everlog-cold", "everlog-cold"] {
            assert_eq!(folder(path), Path::new("/base/everlog-cold"), "{path}");
        }
        assert_eq!(folder("../cold"), Path::new("/base/../cold"));
        assert_eq!(folder("/a%20b/c d"), Path::new("/a%20b/c d"));
        let cold = connect("file://./everlog-cold", Path::new("/base")).expect("it names a folder");
        assert_eq!(cold.url(), "file:///base/everlog-cold");
        assert!(super::folder("cold", Path::new("base")).expect("there is a working directory").is_absolute());
        refused("file://");
    }

    #[test]
    fn a_bucket_and_what_its_keys_begin_with_are_told_apart() {
        for (rest, name, prefix, url) in [
            ("bucket", "bucket", "", "s3://bucket"),
            ("bucket/", "bucket", "", "s3://bucket"),
            ("my-bucket.x/ever_log/store=1", "my-bucket.x", "ever_log/store=1/", "s3://my-bucket.x/ever_log/store=1"),
            ("bucket/a/b/", "bucket", "a/b/", "s3://bucket/a/b"),
        ] {
            let place = Place::parse("s3", rest).expect("it names a bucket");
            assert_eq!((place.name.as_str(), place.prefix.as_str()), (name, prefix), "{rest}");
            assert_eq!(place.to_string(), url);
        }
    }

    #[test]
    fn what_names_no_cold_store_is_refused_with_a_remedy() {
        for url in ["", "none", "./cold", "/mnt/cold", "http://host/cold", "S3://bucket", "://bucket", "a b://c"] {
            refused(url);
        }
        for rest in
            ["", "/prefix", "../x", "a/../b", "a/..", "a/./b", "a//b", "a/b//", "a b", "a/b?c", "a/b#c", "a/%2e%2e"]
        {
            for scheme in ["s3", "gs", "az"] {
                refused(&format!("{scheme}://{rest}"));
            }
        }
    }

    #[test]
    fn credentials_in_a_url_are_refused_and_not_repeated() {
        for url in ["s3://id:secret@bucket/p", "s3://id:sec/secret@bucket", "s3://id:secret/p", "id:secret@s3://bucket"]
        {
            let error = refused(url);
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[cfg(not(feature = "s3"))]
    #[test]
    fn a_kind_that_was_not_built_says_what_builds_it() {
        let error = refused("s3://bucket/prefix");
        assert!(error.advice().is_some_and(|remedy| remedy.contains("`s3`")), "{error}");
    }
}
