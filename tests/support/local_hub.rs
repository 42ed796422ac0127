//! A server on this machine that speaks as much of the Hugging Face hub's protocol as fetching a model takes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// The one model of the hub.
pub const MODEL: &str = "genir/tiny";

/// Contents by file name.
pub type Files = BTreeMap<String, Vec<u8>>;

#[derive(Clone, Default)]
pub struct Request {
    pub path: String,
    pub range: String,
    pub authorization: Option<String>,
}

#[derive(Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// Bytes of the body that are sent before the connection is closed.
    pub cut: Option<usize>,
}

impl Answer {
    pub fn status(status: u16) -> Self {
        Answer { status, ..Answer::default() }
    }
}

/// A server on this machine that lives until it is dropped.
pub struct Server {
    pub address: SocketAddr,
    pub requests: Arc<Mutex<Vec<Request>>>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(answer: impl Fn(&Request, SocketAddr) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stopped = Arc::new(AtomicBool::new(false));
        let (seen, stop) = (Arc::clone(&requests), Arc::clone(&stopped));
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let mut stream = stream.unwrap();
                let request = read_request(&stream);
                let reply = answer(&request, address);
                seen.lock().unwrap().push(request);
                write_answer(&mut stream, &reply);
            }
        });
        Server { address, requests, stopped, thread: Some(thread) }
    }

    /// Paths asked for that end with `end`.
    pub fn asked(&self, end: &str) -> Vec<Request> {
        let requests = self.requests.lock().unwrap();
        requests.iter().filter(|request| request.path.ends_with(end)).cloned().collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for a connection.
        let _ = TcpStream::connect(self.address);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn read_request(stream: &TcpStream) -> Request {
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    let first = lines.next().unwrap();
    let mut request =
        Request { path: first.split(' ').nth(1).unwrap().to_owned(), ..Request::default() };
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").unwrap();
        match name.to_lowercase().as_str() {
            "range" => request.range = value.to_owned(),
            "authorization" => request.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    request
}

fn write_answer(stream: &mut TcpStream, answer: &Answer) {
    let mut head = format!(
        "HTTP/1.1 {} -\r\nConnection: close\r\nContent-Length: {}\r\n",
        answer.status,
        answer.body.len()
    );
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let body = &answer.body[..answer.cut.unwrap_or(answer.body.len())];
    // Whoever asked may have gone already.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(b"\r\n"));
    let _ = stream.write_all(body);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read(&mut [0]);
}

/// Answers as the hub does for [`MODEL`], whatever its revision: the commit's files, those of weights by way of
/// a redirection to another place.
pub fn hub(request: &Request, address: SocketAddr, commit: &str, files: &Files) -> Answer {
    if let Some(name) = request.path.strip_prefix("/elsewhere/") {
        return content(&request.range, &files[name]);
    }
    let Some(path) = request.path.strip_prefix(&format!("/{MODEL}/resolve/{commit}/")) else {
        if !request.path.starts_with(&format!("/api/models/{MODEL}/revision/")) {
            return Answer::status(404);
        }
        let siblings: Vec<_> =
            files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
        let info = serde_json::json!({ "sha": commit, "siblings": siblings });
        return Answer { status: 200, body: info.to_string().into(), ..Answer::default() };
    };
    let Some(bytes) = files.get(path) else {
        return Answer::status(404);
    };
    let etag = format!("\"etag-of-{}-{}\"", path.replace('.', "-"), bytes.len());
    let mut answer = if path.ends_with(".safetensors") {
        let mut answer = Answer::status(302);
        answer.headers.push(("Location", format!("http://{address}/elsewhere/{path}")));
        answer.headers.push(("X-Linked-Etag", etag));
        answer
    } else {
        let mut answer = content(&request.range, bytes);
        answer.headers.push(("ETag", etag));
        answer
    };
    answer.headers.push(("X-Repo-Commit", commit.to_owned()));
    answer
}

/// The bytes of a range `bytes=FROM-` or `bytes=FROM-TO`.
fn content(range: &str, bytes: &[u8]) -> Answer {
    let (from, to) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let from: usize = from.parse().unwrap();
    let end = to.parse().map_or(bytes.len(), |to: usize| to + 1);
    if from >= bytes.len() {
        return Answer::status(416);
    }
    let range = format!("bytes {from}-{}/{}", end - 1, bytes.len());
    Answer {
        status: 206,
        headers: vec![("Content-Range", range)],
        body: bytes[from..end].to_vec(),
        cut: None,
    }
}
