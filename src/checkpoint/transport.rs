//! Requests to a hub. The hub is not trusted: each part of its responses is validated before it is used.
//!
//! The token is sent to the hub's own address only, never to the target of a redirection. A user name and a password
//! in `HF_ENDPOINT` are sent as basic authentication, and appear in no address, error or log.

use std::io::{self, Read};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ureq::Agent;

use super::HubSettings;

/// Maximum length of an ETag; those of git and LFS have 40 and 64 digits.
const LONGEST_ETAG: usize = 128;
/// Maximum size of a list of files, in bytes.
const LARGEST_LIST: u64 = 64 << 20;
/// Maximum number of redirections.
const REDIRECTS: usize = 5;
const CONNECT: Duration = Duration::from_secs(30);
const RESPONSE: Duration = Duration::from_secs(120);

/// Errors of a request to the hub.
#[derive(Debug)]
pub(super) enum HubError {
    /// The HTTP status is not a success.
    Status(u16),
    /// The request failed.
    Request(Box<ureq::Error>),
    /// The network or the disk failed.
    Io(io::Error),
    /// The hub sent an invalid value.
    InvalidResponse {
        /// The part of the response.
        what: &'static str,
        /// The value found.
        found: String,
        /// A description of valid values.
        expected: String,
    },
    /// The number of bytes received differs from the announced one.
    Size {
        /// Number of bytes received.
        found: u64,
        /// Number of bytes announced.
        expected: u64,
    },
}

impl From<io::Error> for HubError {
    fn from(error: io::Error) -> Self {
        HubError::Io(error)
    }
}

/// The metadata of a file on the hub.
pub(super) struct FileInfo {
    /// The identifier of the content: letters, digits, `-` and `_`.
    pub etag: String,
    /// Size in bytes.
    pub size: u64,
}

/// The body of a response.
pub(super) struct Content {
    pub reader: Box<dyn Read>,
    /// True if the body starts at the requested byte; otherwise it starts at the first byte of the file.
    pub is_partial: bool,
}

/// A client of the hub.
pub(super) struct Hub {
    agent: Agent,
    /// The address of the hub, without user name and password.
    endpoint: String,
    authorization: Option<String>,
}

type Response = ureq::http::Response<ureq::Body>;

impl Hub {
    pub fn new(settings: &HubSettings) -> Self {
        let (endpoint, credentials) = split_credentials(&settings.endpoint);
        // As in `huggingface_hub`, credentials in the address have priority.
        let basic = credentials.map(|text| format!("Basic {}", BASE64_STANDARD.encode(text)));
        let bearer = settings.token.as_ref().map(|token| format!("Bearer {token}"));
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(RESPONSE))
            .timeout_per_read(Some(RESPONSE))
            .user_agent(concat!("genir/", env!("CARGO_PKG_VERSION")));
        Self { agent: config.build().into(), endpoint, authorization: basic.or(bearer) }
    }

    /// Returns the response at `path`, a list.
    pub fn list(&self, path: &str) -> Result<Vec<u8>, HubError> {
        let mut response = self.follow(&format!("{}/{path}", self.endpoint), None, |_| Ok(()))?;
        let body = response.body_mut().with_config().limit(LARGEST_LIST).read_to_vec();
        body.map_err(|error| HubError::Request(Box::new(error)))
    }

    /// Returns the metadata of the file at `path`. The file must belong to `commit` and have at most `largest` bytes.
    pub fn file(&self, path: &str, commit: &str, largest: u64) -> Result<FileInfo, HubError> {
        let url = format!("{}/{path}", self.endpoint);
        let mut etag = None;
        let response = self.follow(&url, Some(0..1), |response| {
            // The hub itself sends the commit of the file, before it redirects.
            if etag.is_none()
                && let Some(found) = text_of(response, "X-Repo-Commit")
            {
                if found != commit {
                    return Err(invalid("the commit of the file", found, commit));
                }
                let found = text_of(response, "X-Linked-Etag").or(text_of(response, "ETag"));
                etag = Some(valid_etag(found.unwrap_or_default())?);
            }
            Ok(())
        })?;
        let Some(etag) = etag else {
            return Err(invalid("the header X-Repo-Commit", "nothing", commit));
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
                Err(invalid("the size of the file", announced, &expected))
            }
        }
    }

    /// Returns the bytes of the file at `path`, starting at byte `from` if the server supports ranges.
    pub fn content(&self, path: &str, from: u64) -> Result<Content, HubError> {
        let url = format!("{}/{path}", self.endpoint);
        let response = self.follow(&url, Some(from..u64::MAX), |_| Ok(()))?;
        let is_partial = response.status().as_u16() == 206;
        if is_partial {
            let range = text_of(&response, "Content-Range").unwrap_or_default();
            if !range.trim_start().starts_with(&format!("bytes {from}-")) {
                let expected = format!("bytes {from}-");
                return Err(invalid("the range that was sent", range, &expected));
            }
        }
        Ok(Content { reader: Box::new(response.into_body().into_reader()), is_partial })
    }

    /// Returns the response at `url` after redirections; `inspect` is called with every response, including the last
    /// one.
    fn follow(
        &self,
        url: &str,
        range: Option<std::ops::Range<u64>>,
        mut inspect: impl FnMut(&Response) -> Result<(), HubError>,
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
                    inspect(&response)?;
                    return Ok(response);
                }
                301 | 302 | 303 | 307 | 308 => {
                    inspect(&response)?;
                    url =
                        redirect_target(&url, text_of(&response, "Location").unwrap_or_default())?;
                }
                status => return Err(HubError::Status(status)),
            }
        }
        Err(invalid("the address of the file", &url, "at most 5 redirections"))
    }
}

/// Splits `https://user:password@hub.example/path` into the address without credentials, and `user:password`.
fn split_credentials(endpoint: &str) -> (String, Option<&str>) {
    let (scheme, rest) = match endpoint.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), endpoint),
    };
    // The last `@` separates them: an unescaped password may contain any of `@/:?#`.
    match rest.rsplit_once('@') {
        Some((credentials, host)) => (format!("{scheme}{host}"), Some(credentials)),
        None => (endpoint.to_owned(), None),
    }
}

/// Returns the address of a hub without user name and password, for messages.
pub(super) fn without_credentials(endpoint: &str) -> String {
    split_credentials(endpoint).0
}

/// Returns the scheme and the host of an address.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    url[host..].find(['/', '?', '#']).map_or(url, |end| &url[..host + end])
}

/// Returns the target of a redirection.
fn redirect_target(url: &str, location: &str) -> Result<String, HubError> {
    let is_web = |url: &str| url.starts_with("https://") || url.starts_with("http://");
    if is_web(location) && !(url.starts_with("https://") && location.starts_with("http://")) {
        Ok(location.to_owned())
    } else if location.starts_with('/') && !location.starts_with("//") {
        Ok(format!("{}{location}", origin(url)))
    } else {
        let expected = "an address that starts with https:// or /";
        Err(invalid("the target of the redirection", location, expected))
    }
}

/// Returns an ETag without its quotes, if it is safe as a file name.
fn valid_etag(found: &str) -> Result<String, HubError> {
    let etag = found.strip_prefix("W/").unwrap_or(found);
    let etag = etag.strip_prefix('"').and_then(|etag| etag.strip_suffix('"')).unwrap_or(etag);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if (1..=LONGEST_ETAG).contains(&etag.len()) && etag.bytes().all(plain) {
        Ok(etag.to_owned())
    } else {
        let expected = format!("1 to {LONGEST_ETAG} letters, digits, - and _ in quotes");
        Err(invalid("the ETag", found, &expected))
    }
}

/// Returns the value of a header, if it is valid text.
fn text_of<'a>(response: &'a Response, header: &str) -> Option<&'a str> {
    response.headers().get(header)?.to_str().ok()
}

fn invalid(what: &'static str, found: &str, expected: &str) -> HubError {
    let found = found.chars().take(100).flat_map(char::escape_debug).collect();
    HubError::InvalidResponse { what, found, expected: expected.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_must_be_a_safe_file_name() {
        for (given, name) in [
            ("\"0123abcd\"", "0123abcd"),
            ("W/\"0123abcd\"", "0123abcd"),
            ("0123-abcd_e", "0123-abcd_e"),
        ] {
            assert_eq!(valid_etag(given).ok().as_deref(), Some(name));
        }
        let long = "a".repeat(LONGEST_ETAG + 1);
        for given in
            ["", "\"\"", "..", "../x", "/etc/x", "\"a/b\"", "a\\b", "a.lock", "a\0b", "é", &long]
        {
            assert!(valid_etag(given).is_err(), "{given}");
        }
    }

    #[test]
    fn credentials_are_split_from_an_address() {
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
    fn redirections_to_other_schemes_or_from_tls_to_plain_http_are_refused() {
        let from = "https://hub.example/a/b?c";
        let to = |location| redirect_target(from, location).ok();
        assert_eq!(to("/d?e=/f").as_deref(), Some("https://hub.example/d?e=/f"));
        assert_eq!(to("https://cdn.example/d").as_deref(), Some("https://cdn.example/d"));
        assert_eq!(redirect_target("http://a", "http://b/c").ok().as_deref(), Some("http://b/c"));
        for location in ["", "d", "//cdn.example", "http://cdn.example", "file:///etc/passwd"] {
            assert_eq!(to(location), None, "{location}");
        }
    }
}
