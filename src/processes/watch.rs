//! Watches whether the other processes are still there, beside MPI: a process that waits in MPI for one that is gone may do so
//! for ever, and a launcher may learn late, or never, that a machine is lost.
//!
//! The first process has a TCP connection to each of the others. A byte travels on it each second, both ways. A process whose
//! connection ends, or that nothing comes from, is gone.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rand::{RngExt, rng};

use super::{ProcessesError, World};

/// The time between two signs of life.
const BEAT: Duration = Duration::from_secs(1);

/// A process that nothing has come from for this long is gone.
const SILENCE: Duration = Duration::from_secs(7);

/// The time in which the launcher may end this process for another that is gone, before it ends itself: then the exit status
/// of all is that of the process that failed.
const GRACE: Duration = Duration::from_secs(2);

/// The longest time for which a process tries to connect.
const CONNECT: Duration = Duration::from_secs(5);

/// A sign of life.
const ALIVE: u8 = b'.';
/// The process has done its work: its connection may end.
const DONE: u8 = b'd';
/// A process has failed, and has said why.
const FAILED: u8 = b'f';

/// The connections of this process.
pub(super) struct Watch {
    peers: Arc<[Peer]>,
    /// True once all processes have ended MPI, or this one has failed.
    is_over: Arc<AtomicBool>,
}

/// Another process.
struct Peer {
    rank: usize,
    host: String,
    stream: TcpStream,
}

impl Watch {
    /// Connects all processes, and begins to watch. Processes that cannot reach the first one by TCP are not watched: the first
    /// one warns of them.
    ///
    /// # Errors
    /// A function of MPI failed.
    pub fn start(world: &World) -> Result<Self, ProcessesError> {
        let hosts = world.texts(&world.host())?;
        let token = rng().random::<u64>();
        let stop = Arc::new(AtomicBool::new(false));
        let (mut offer, mut accepting) = (String::new(), None);
        if let Some((listener, addresses)) = world.is_first().then(listen).and_then(io::Result::ok)
        {
            let words: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
            offer = format!("{token} {}", words.join(" "));
            let stop = stop.clone();
            accepting = Some(thread::spawn(move || accept(&listener, token, &stop)));
        }
        let offer = world.texts(&offer)?.swap_remove(0);
        let is_near = hosts[world.rank()] == hosts[0];
        let own = (!world.is_first()).then(|| connect(&offer, world.rank(), is_near)).flatten();
        // Afterwards each process has its answer, or has given up.
        let reached = world.all_gather(&[u8::from(own.is_some())])?; // [processes]
        stop.store(true, Ordering::SeqCst);
        let mut accepted = accepting.and_then(|thread| thread.join().ok()).unwrap_or_default();
        accepted.retain(|rank, _| reached.get(*rank) == Some(&1));
        let known = accepted.keys().map(|&rank| rank as u64).collect::<Vec<_>>();
        let known = world.all_gather_each(&known)?.swap_remove(0);
        let unknown: Vec<String> = (1..world.count())
            .filter(|&rank| !known.contains(&(rank as u64)))
            .map(|rank| format!("{rank} on {}", hosts[rank]))
            .collect();
        if world.is_first() && !unknown.is_empty() {
            tracing::warn!(
                "process {} cannot connect to the first one, on {}, by TCP: if its machine is lost, this may be noticed late",
                unknown.join(", "),
                hosts[0]
            );
        }
        let is_known = known.contains(&(world.rank() as u64));
        let to_first = own.filter(|_| is_known).map(|stream| (0, stream));
        let peers = accepted.into_iter().chain(to_first);
        let peers = peers.map(|(rank, stream)| Peer { rank, host: hosts[rank].clone(), stream });
        let watch = Self { peers: peers.collect(), is_over: Arc::default() };
        // Of those that lose the first process, the next one says it, and the first one on each other machine.
        let is_speaker = match world.rank() {
            0 | 1 => true,
            rank => !is_near && hosts[..rank].iter().all(|host| *host != hosts[rank]),
        };
        watch.begin(is_speaker, world.count());
        Ok(watch)
    }

    fn begin(&self, is_speaker: bool, count: usize) {
        for at in 0..self.peers.len() {
            let (peers, is_over) = (self.peers.clone(), self.is_over.clone());
            thread::spawn(move || {
                let peer = &peers[at];
                let end = listen_to(&peer.stream);
                if matches!(end, End::Done) || is_over.load(Ordering::SeqCst) {
                    return;
                }
                if let (End::Gone(why), true) = (end, is_speaker) {
                    let (lost, host) = (peer.rank, &peer.host);
                    let words = format!(
                        "error: process {lost} of {count}, on {host}, {why}: the others end, too"
                    );
                    // If standard error cannot be written, nothing is left to report to.
                    let _ = writeln!(io::stderr(), "{words}");
                }
                say(&peers, FAILED);
                thread::sleep(GRACE);
                signal_hook::low_level::exit(1);
            });
        }
        let (peers, is_over) = (self.peers.clone(), self.is_over.clone());
        thread::spawn(move || {
            while !is_over.load(Ordering::SeqCst) {
                say(&peers, ALIVE);
                thread::sleep(BEAT);
            }
        });
    }

    /// Tells the others that this process has done its work, and waits for them in MPI. It still watches those that have not
    /// said so.
    pub fn done(&self) {
        say(&self.peers, DONE);
    }

    /// Ends the watch: all processes have ended MPI.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    /// Tells the others that this process has failed, and has said why.
    pub fn failed(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        say(&self.peers, FAILED);
    }
}

/// Sends each of them a byte. Those that cannot be reached are noticed by the thread that listens to them.
fn say(peers: &[Peer], byte: u8) {
    for peer in peers {
        let _ = (&peer.stream).write_all(&[byte]);
    }
}

/// The end of a connection.
enum End {
    /// The other process has done its work.
    Done,
    /// A process has failed, and has said why.
    Failed,
    /// The other process is gone, in this way.
    Gone(&'static str),
}

fn listen_to(mut stream: &TcpStream) -> End {
    let mut bytes = [0; 64];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return End::Gone("has ended"),
            Ok(count) if bytes[..count].contains(&FAILED) => return End::Failed,
            Ok(count) if bytes[..count].contains(&DONE) => return End::Done,
            Ok(_) => {}
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    return End::Gone("has given no sign of life for 7 seconds");
                }
                _ => return End::Gone("has ended"),
            },
        }
    }
}

/// Listens on all addresses of this machine, and returns them: first the one that only processes on the machine reach.
fn listen() -> io::Result<(TcpListener, Vec<SocketAddr>)> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let port = listener.local_addr()?.port();
    let found = if_addrs::get_if_addrs().unwrap_or_default().into_iter();
    let mut addresses: Vec<IpAddr> =
        found.map(|interface| interface.ip()).filter(IpAddr::is_ipv4).collect();
    addresses.sort_by_key(|address| !address.is_loopback());
    Ok((listener, addresses.into_iter().map(|address| (address, port).into()).collect()))
}

/// Connects to the first process by one of the addresses that it has offered. `is_near`: it is on the same machine.
fn connect(offer: &str, rank: usize, is_near: bool) -> Option<TcpStream> {
    let (token, addresses) = offer.split_once(' ')?;
    let token: u64 = token.parse().ok()?;
    let deadline = Instant::now() + CONNECT;
    let addresses = addresses.split(' ').filter_map(|address| address.parse::<SocketAddr>().ok());
    addresses.filter(|address| is_near || !address.ip().is_loopback()).find_map(|address| {
        let left = deadline.checked_duration_since(Instant::now())?;
        let mut stream = TcpStream::connect_timeout(&address, left.min(BEAT)).ok()?;
        set_up(&stream).ok()?;
        stream.write_all(&[token.to_le_bytes(), (rank as u64).to_le_bytes()].concat()).ok()?;
        // Another program may listen at this address of another machine.
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).ok()?;
        stream.set_read_timeout(Some(SILENCE)).ok()?;
        (u64::from_le_bytes(answer) == token).then_some(stream)
    })
}

/// The connections of processes that know the token, by rank, until `stop`: the last one of each.
fn accept(listener: &TcpListener, token: u64, stop: &AtomicBool) -> BTreeMap<usize, TcpStream> {
    let mut accepted = BTreeMap::new();
    if listener.set_nonblocking(true).is_err() {
        return accepted;
    }
    while !stop.load(Ordering::SeqCst) {
        match listener.accept() {
            Ok((stream, _)) => {
                accepted.extend(answer(&stream, token).ok().map(|rank| (rank, stream)));
            }
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
    accepted
}

/// Reads the token and the rank of another process, and answers.
fn answer(mut stream: &TcpStream, token: u64) -> io::Result<usize> {
    stream.set_nonblocking(false)?;
    set_up(stream)?;
    let mut words = [[0; 8]; 2];
    stream.read_exact(words.as_flattened_mut())?;
    let [found, rank] = words.map(u64::from_le_bytes);
    if found != token {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    stream.write_all(&token.to_le_bytes())?;
    stream.set_read_timeout(Some(SILENCE))?;
    Ok(rank as usize)
}

/// Prepares a connection for the exchange of the token.
fn set_up(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(BEAT))?;
    stream.set_write_timeout(Some(BEAT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_connects_with_the_token_alone_and_its_end_is_noticed() {
        let (listener, addresses) = listen().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let accepting = thread::spawn({
            let stop = stop.clone();
            move || accept(&listener, 7, &stop)
        });
        let offer = |token: u64| format!("{token} 127.0.0.1:1 {}", addresses[0]);
        assert!(connect(&offer(8), 2, true).is_none());
        assert!(connect(&offer(7), 2, false).is_none(), "the address of another machine itself");
        let own = connect(&offer(7), 3, true).unwrap();
        stop.store(true, Ordering::SeqCst);
        let accepted = accepting.join().unwrap();
        assert_eq!(accepted.keys().collect::<Vec<_>>(), [&3]);

        let peer = |stream| Peer { rank: 0, host: String::new(), stream };
        let peers = [peer(own)];
        for (byte, is_expected) in [
            (DONE, (|end| matches!(end, End::Done)) as fn(End) -> bool),
            (FAILED, |end| matches!(end, End::Failed)),
        ] {
            say(&peers, ALIVE);
            say(&peers, byte);
            assert!(is_expected(listen_to(&accepted[&3])));
        }
        accepted[&3].set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let silent = listen_to(&accepted[&3]);
        assert!(matches!(silent, End::Gone(why) if why.contains("no sign of life for 7 seconds")));
        assert_eq!(SILENCE.as_secs(), 7);
        drop(peers);
        assert!(matches!(listen_to(&accepted[&3]), End::Gone("has ended")));
    }
}
