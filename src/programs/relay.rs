//! Owns how a node hands over to another process of it: the sockets it listens on, by SCM_RIGHTS, and the words by which
//! each says how far it is. The heir's standard input is the way between the two. Must not know what a node does.

use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::{self, Timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use tokio::process::{Child, Command};

/// Set for a process that takes another's place.
const VARIABLE: &str = "NEAP_RELAY";
/// Bytes of one word, or of an address.
const WORD_MAX: usize = 128;
/// Follows the last socket.
const THATS_ALL: &str = "that is all";

/// What a process says to the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Word {
    /// The heir: it runs, and its configuration is good.
    Ready,
    /// The old one: the store is yours.
    Go,
    /// The heir: all its roles are up.
    Up,
}

impl Word {
    fn text(self) -> &'static str {
        match self {
            Word::Ready => "ready",
            Word::Go => "go",
            Word::Up => "up",
        }
    }
}

/// One end of the way between the two.
#[derive(Clone, Debug)]
struct Way(Arc<OwnedFd>);

impl Way {
    fn send(&self, text: &str, socket: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let sockets: Vec<BorrowedFd<'_>> = socket.into_iter().collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
            return Err(io::Error::other("no room for a socket"));
        }
        sendmsg(self.0.as_fd(), &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// The next word, and the socket that came with it; empty: the other has ended.
    fn receive(&self) -> io::Result<(String, Option<OwnedFd>)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut text = [0; WORD_MAX];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = recvmsg(self.0.as_fd(), &mut [IoSliceMut::new(&mut text)], &mut control, flags)?;
        let mut sockets = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
            _ => None,
        });
        let socket = sockets.next().and_then(|mut sockets| sockets.next());
        Ok((String::from_utf8_lossy(&text[..got.bytes]).into_owned(), socket))
    }

    /// Waits for one word; nothing else may come.
    fn expect(&self, word: Word, within: Duration) -> io::Result<()> {
        sockopt::set_socket_timeout(self.0.as_fd(), Timeout::Recv, Some(within))?;
        match self.receive()?.0.as_str() {
            text if text == word.text() => Ok(()),
            "" => Err(io::Error::other("it has ended")),
            other => Err(io::Error::other(format!("it said \"{other}\""))),
        }
    }
}

/// A process that is to take this one's place.
#[derive(Debug)]
pub struct Heir {
    child: Child,
    way: Way,
}

/// Starts it with this process's own arguments, and hands it every socket.
pub fn spawn(binary: &Path, sockets: Vec<(SocketAddr, OwnedFd)>) -> io::Result<Heir> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let child = Command::new(binary).args(args).env(VARIABLE, "1").stdin(Stdio::from(theirs)).spawn()?;
    let way = Way(Arc::new(ours));
    let heir = Heir { child, way };
    for (addr, socket) in &sockets {
        heir.way.send(&addr.to_string(), Some(socket.as_fd()))?;
    }
    heir.way.send(THATS_ALL, None)?;
    Ok(heir)
}

impl Heir {
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    pub fn tell(&self, word: Word) -> io::Result<()> {
        self.way.send(word.text(), None)
    }

    /// Waits until it says so; an error: it does not, or ends.
    pub async fn expect(&self, word: Word, within: Duration) -> io::Result<()> {
        let way = self.way.clone();
        tokio::task::spawn_blocking(move || way.expect(word, within))
            .await
            .unwrap_or_else(|_| Err(io::Error::other("waiting for it broke off")))
    }

    /// Ends it: this process goes on.
    pub async fn end(mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::warn!(%error, "a process that was to take this one's place cannot be ended");
        }
    }
}

/// What this process has from the one whose place it takes.
#[derive(Debug)]
pub struct Inherited {
    pub sockets: Vec<(SocketAddr, OwnedFd)>,
    way: Way,
}

/// How long the old process may take for what it has to do.
const PATIENCE: Duration = Duration::from_secs(120);

/// Takes over, where this process was started for that.
pub fn inherited() -> io::Result<Option<Inherited>> {
    if std::env::var_os(VARIABLE).is_none() {
        return Ok(None);
    }
    let way = Way(Arc::new(io::stdin().as_fd().try_clone_to_owned()?));
    sockopt::set_socket_timeout(way.0.as_fd(), Timeout::Recv, Some(PATIENCE))?;
    let mut sockets = Vec::new();
    loop {
        match way.receive()? {
            (text, Some(socket)) => {
                let addr = text.parse().map_err(|_| io::Error::other(format!("no address: \"{text}\"")))?;
                sockets.push((addr, socket));
            }
            (text, None) if text == THATS_ALL => return Ok(Some(Inherited { sockets, way })),
            (text, None) => return Err(io::Error::other(format!("a word in place of a socket: \"{text}\""))),
        }
    }
}

impl Inherited {
    pub fn tell(&self, word: Word) -> io::Result<()> {
        self.way.send(word.text(), None)
    }

    pub fn expect(&self, word: Word) -> io::Result<()> {
        self.way.expect(word, PATIENCE)
    }
}

/// Tells systemd that the service is up; elsewhere, nothing.
pub fn tell_ready() {
    tell_systemd("READY=1");
}

/// Tells systemd which process is the service's main one now; elsewhere, nothing.
pub fn tell_main_pid(pid: u32) {
    tell_systemd(&format!("MAINPID={pid}\nREADY=1"));
}

fn tell_systemd(text: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = notify(Path::new(&path), text) {
        tracing::warn!(%error, text, "systemd was not told");
    }
}

fn notify(path: &Path, text: &str) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
    let socket = UnixDatagram::unbound()?;
    let bytes = path.as_os_str().as_bytes();
    let addr = match bytes.strip_prefix(b"@") {
        Some(name) => UnixAddr::from_abstract_name(name)?,
        None => UnixAddr::from_pathname(path)?,
    };
    socket.send_to_addr(text.as_bytes(), &addr)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn sockets_and_words_arrive_in_order_and_an_end_is_an_error() {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let (one, other) = (Way(Arc::new(one)), Way(Arc::new(other)));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        one.send(&addr.to_string(), Some(listener.as_fd())).unwrap();
        one.send(Word::Go.text(), None).unwrap();
        let (text, socket) = other.receive().unwrap();
        let came = TcpListener::from(socket.unwrap());
        assert_eq!((text, came.local_addr().unwrap()), (addr.to_string(), addr));
        other.expect(Word::Go, PATIENCE).unwrap();
        one.send("something", None).unwrap();
        assert!(other.expect(Word::Up, PATIENCE).unwrap_err().to_string().contains("something"));
        let late = other.expect(Word::Up, Duration::from_millis(50)).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::WouldBlock);
        drop(one);
        assert!(other.expect(Word::Up, PATIENCE).unwrap_err().to_string().contains("ended"));
    }
}
