//! Requests to a hub, which is not trusted: what it says is used only where it can be so.
//!
//! The token goes to the hub's own address and to no other that it redirects to. A user name and a password in
//! `HF_ENDPOINT` are sent as such, and are part of no address, error or log.

use std::io::{self, Read};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ureq::Agent;

use super::HubSettings;

/// The longest ETag; git's and LFS's have 40 and 64 digits.
const LONGEST_ETAG: usize = 128;
/// The most bytes of a list of files.
const LARGEST_LIST: u64 = 64 << 20;
/// Places that a file may be moved through.
const REDIRECTS: usize = 5;
const CONNECT: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(120);

/// Why the hub did not give what was asked for.
#[derive(Debug)]
pub(super) enum HubError {
    /// An HTTP status that is none of success.
    Status(u16),
    /// The request failed.
    Request(Box<ureq::Error>),
    /// The network or the disk failed.
    Io(io::Error),
    /// The hub sent an invalid value.
    Implausible {
        /// Which part of its answer.
        what: &'static str,
        /// What it says.
        found: String,
        /// A description of valid values.
        expected: String,
    },
    /// Not as many bytes came as were announced.
    Size {
        /// Bytes that came.
        found: u64,
        /// Bytes announced.
        expected: u64,
    },
}

impl From<io::Error> for HubError {
    fn from(error: io::Error) -> Self {
        HubError::Io(error)
    }
}

/// What the hub says of one file.
pub(super) struct FileInfo {
    /// A name for its content: letters, digits, `-` and `_`.
    pub etag: String,
    /// Bytes.
    pub size: u64,
}

/// The body of an answer, from some byte on.
pub(super) struct Content {
    pub reader: Box<dyn Read>,
    /// Whether it begins where it was asked to; otherwise at the file's first byte.
    pub is_rest: bool,
}

/// A hub, asked with the user's token.
pub(super) struct Hub {
    agent: Agent,
    /// Its address, without user name and password.
    endpoint: String,
    authorization: Option<String>,
}

type Response = ureq::http::Response<ureq::Body>;

impl Hub {
    pub fn new(settings: &HubSettings) -> Self {
        let (endpoint, credentials) = split_credentials(&settings.endpoint);
        // As in Python, where what stands in the address comes first.
        let basic = credentials.map(|text| format!("Basic {}", BASE64_STANDARD.encode(text)));
        let bearer = settings.token.as_ref().map(|token| format!("Bearer {token}"));
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(ANSWER))
            .timeout_per_read(Some(ANSWER))
            .user_agent(concat!("genir/", env!("CARGO_PKG_VERSION")));
        Self { agent: config.build().into(), endpoint, authorization: basic.or(bearer) }
    }

    /// The text at `path`, a list.
    pub fn list(&self, path: &str) -> Result<Vec<u8>, HubError> {
        let mut response = self.follow(&format!("{}/{path}", self.endpoint), None, |_| Ok(()))?;
        let body = response.body_mut().with_config().limit(LARGEST_LIST).read_to_vec();
        body.map_err(|error| HubError::Request(Box::new(error)))
    }

    /// What the hub says of the file at `path`, which is of `commit` and has at most `largest` bytes.
    pub fn file(&self, path: &str, commit: &str, largest: u64) -> Result<FileInfo, HubError> {
        let url = format!("{}/{path}", self.endpoint);
        let mut etag = None;
        let response = self.follow(&url, Some(0..1), |response| {
            // The hub itself says whose file this is, before it leads elsewhere.
            if etag.is_none()
                && let Some(found) = text_of(response, "X-Repo-Commit")
            {
                if found != commit {
                    return Err(implausible("the commit of the file", found, commit));
                }
                let found = text_of(response, "X-Linked-Etag").or(text_of(response, "ETag"));
                etag = Some(plausible_etag(found.unwrap_or_default())?);
            }
            Ok(())
        })?;
        let Some(etag) = etag else {
            return Err(implausible("the header X-Repo-Commit", "nothing", commit));
        };
        let announced = match text_of(&response, "Content-Range") {
            Some(range) => range.rsplit('/').next(),
            None => text_of(&response, "Content-Length"),
        };
        let announced = announced.unwrap_or_default();
        match announced.parse().ok().filter(|size| *size <= largest) {
            Some(size) => Ok(FileInfo { etag, size }),
            None => {
                let expected = format!("a number of bytes up to {largest}");
                Err(implausible("the size of the file", announced, &expected))
            }
        }
    }

    /// The bytes of the file at `path`, `from` on where the server can do that.
    pub fn content(&self, path: &str, from: u64) -> Result<Content, HubError> {
        let url = format!("{}/{path}", self.endpoint);
        let response = self.follow(&url, Some(from..u64::MAX), |_| Ok(()))?;
        let is_rest = response.status().as_u16() == 206;
        if is_rest {
            let range = text_of(&response, "Content-Range").unwrap_or_default();
            if !range.trim_start().starts_with(&format!("bytes {from}-")) {
                let expected = format!("bytes {from}-");
                return Err(implausible("the range that was sent", range, &expected));
            }
        }
        Ok(Content { reader: Box::new(response.into_body().into_reader()), is_rest })
    }

    /// The answer at `url`, after redirections; `look` sees every answer on the way, the last one too.
    fn follow(
        &self,
        url: &str,
        range: Option<std::ops::Range<u64>>,
        mut look: impl FnMut(&Response) -> Result<(), HubError>,
    ) -> Result<Response, HubError> {
        let range = range.map(|range| match range.end {
            u64::MAX => format!("bytes={}-", range.start),
            end => format!("bytes={}-{}", range.start, end - 1),
        });
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS {
            let mut request = self.agent.get(&url).header("Accept-Encoding", "identity");
            if let Some(range) = &range {
                request = request.header("Range", range);
            }
            let is_own = origin(&url) == origin(&self.endpoint);
            if let Some(authorization) = self.authorization.as_ref().filter(|_| is_own) {
                request = request.header("Authorization", authorization);
            }
            let response = request.call().map_err(|error| HubError::Request(Box::new(error)))?;
            match response.status().as_u16() {
                200..=299 => {
                    look(&response)?;
                    return Ok(response);
                }
                301 | 302 | 303 | 307 | 308 => {
                    look(&response)?;
                    url = next(&url, text_of(&response, "Location").unwrap_or_default())?;
                }
                status => return Err(HubError::Status(status)),
            }
        }
        Err(implausible("the place of the file", &url, "an end of redirections"))
    }
}

/// `https://user:password@hub.example/path` without `user:password`, and that.
fn split_credentials(endpoint: &str) -> (String, Option<&str>) {
    let (scheme, rest) = match endpoint.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), endpoint),
    };
    // The last one: a password may have any of `@/:?#` in it where it is not escaped.
    match rest.rsplit_once('@') {
        Some((credentials, host)) => (format!("{scheme}{host}"), Some(credentials)),
        None => (endpoint.to_owned(), None),
    }
}

/// A hub's address as it may be shown.
pub(super) fn shown(endpoint: &str) -> String {
    split_credentials(endpoint).0
}

/// Scheme and host of an address.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    url[host..].find(['/', '?', '#']).map_or(url, |end| &url[..host + end])
}

/// Where a redirection leads.
fn next(url: &str, location: &str) -> Result<String, HubError> {
    let is_web = |url: &str| url.starts_with("https://") || url.starts_with("http://");
    if is_web(location) && !(url.starts_with("https://") && location.starts_with("http://")) {
        Ok(location.to_owned())
    } else if location.starts_with('/') && !location.starts_with("//") {
        Ok(format!("{}{location}", origin(url)))
    } else {
        let expected = "an address that begins with https:// or /";
        Err(implausible("the place that it redirects to", location, expected))
    }
}

/// An ETag that can be a file's name and nothing else, without its quotes.
fn plausible_etag(found: &str) -> Result<String, HubError> {
    let etag = found.strip_prefix("W/").unwrap_or(found);
    let etag = etag.strip_prefix('"').and_then(|etag| etag.strip_suffix('"')).unwrap_or(etag);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if (1..=LONGEST_ETAG).contains(&etag.len()) && etag.bytes().all(plain) {
        Ok(etag.to_owned())
    } else {
        let expected = format!("1 to {LONGEST_ETAG} letters, digits, - and _ in quotes");
        Err(implausible("the ETag", found, &expected))
    }
}

/// A header that is text.
fn text_of<'a>(response: &'a Response, header: &str) -> Option<&'a str> {
    response.headers().get(header)?.to_str().ok()
}

fn implausible(what: &'static str, found: &str, expected: &str) -> HubError {
    let found = found.chars().take(100).flat_map(char::escape_debug).collect();
    HubError::Implausible { what, found, expected: expected.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_a_name_is_an_etag() {
        for (given, name) in [
            ("\"0123abcd\"", "0123abcd"),
            ("W/\"0123abcd\"", "0123abcd"),
            ("0123-abcd_e", "0123-abcd_e"),
        ] {
            assert_eq!(plausible_etag(given).ok().as_deref(), Some(name));
        }
        let long = "a".repeat(LONGEST_ETAG + 1);
        for given in
            ["", "\"\"", "..", "../x", "/etc/x", "\"a/b\"", "a\\b", "a.lock", "a\0b", "é", &long]
        {
            assert!(plausible_etag(given).is_err(), "{given}");
        }
    }

    #[test]
    fn credentials_are_no_part_of_an_address() {
        for (given, address, credentials) in [
            ("https://hub.example", "https://hub.example", None),
            ("https://me:secret@hub.example/x", "https://hub.example/x", Some("me:secret")),
            ("http://me:s/e@c:ret@127.0.0.1:80", "http://127.0.0.1:80", Some("me:s/e@c:ret")),
            ("token@hub.example", "hub.example", Some("token")),
        ] {
            assert_eq!(split_credentials(given), (address.to_owned(), credentials));
        }
    }

    #[test]
    fn redirections_lead_to_the_web_only_and_never_out_of_tls() {
        let from = "https://hub.example/a/b?c";
        let to = |location| next(from, location).ok();
        assert_eq!(to("/d?e=/f").as_deref(), Some("https://hub.example/d?e=/f"));
        assert_eq!(to("https://cdn.example/d").as_deref(), Some("https://cdn.example/d"));
        assert_eq!(next("http://a", "http://b/c").ok().as_deref(), Some("http://b/c"));
        for location in ["", "d", "//cdn.example", "http://cdn.example", "file:///etc/passwd"] {
            assert_eq!(to(location), None, "{location}");
        }
    }
}
