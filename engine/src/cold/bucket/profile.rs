//! The credentials file that Amazon's tools share, of which the client knows nothing.
//!
//! What it leaves out: roles, single sign-on and the file `config`. Invariant: it shows no key.

use crate::error::{Error, ErrorKind, Result};
use std::path::PathBuf;

/// What a request is signed with.
pub struct Keys {
    /// The access key's id.
    pub id: String,
    /// The secret access key.
    pub secret: String,
    /// The session's token, where it is one of a session.
    pub token: Option<String>,
}

/// Those of the profile that AWS_PROFILE names, else of the default one. They are not looked up again when they
/// expire.
///
/// # Errors
/// [`ErrorKind::Invalid`] if the profile that is named has none.
pub fn keys() -> Result<Option<Keys>> {
    let named = std::env::var("AWS_PROFILE").ok();
    let file = std::env::var_os("AWS_SHARED_CREDENTIALS_FILE")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".aws/credentials")));
    let text = file.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
    match (of(&text, named.as_deref().unwrap_or("default")), named) {
        (None, Some(name)) => {
            let what = format!("the shared credentials file has no keys for the profile {name} (AWS_PROFILE)");
            Err(Error::new(ErrorKind::Invalid, what)
                .remedy("add them, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"))
        }
        (keys, _) => Ok(keys),
    }
}

/// Those of `profile` in the file's `text`.
pub(super) fn of(text: &str, profile: &str) -> Option<Keys> {
    let section = |line: &str| Some(line.strip_prefix('[')?.strip_suffix(']')?.trim().to_owned());
    let mut lines = text.lines().map(str::trim).skip_while(|line| section(line).as_deref() != Some(profile));
    lines.next();
    let (mut id, mut secret, mut token) = (None, None, None);
    for (key, value) in lines.take_while(|line| section(line).is_none()).filter_map(|line| line.split_once('=')) {
        let value = Some(value.trim().to_owned());
        match key.trim() {
            "aws_access_key_id" => id = value,
            "aws_secret_access_key" => secret = value,
            "aws_session_token" => token = value,
            _ => {}
        }
    }
    Some(Keys { id: id?, secret: secret?, token })
}
