//! Owns TLS on a client's connection: its handshake, records in and out, its orderly end. Must not know certificates,
//! which are the configuration's, nor HTTP.

use std::cell::RefCell;
use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::{ServerConfig, ServerConnection};
use tokio::io::{AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use super::buffer::Input;
use super::inbound::poll_fill;

/// Bytes of an answer that are encrypted before they are sent.
const ENCRYPTED_AT_ONCE: usize = 32 * 1024;
/// A connection with TLS on it.
pub(super) struct TlsStream {
    tcp: TcpStream,
    session: RefCell<Session>,
}

/// How a handshake went.
#[derive(Debug)]
pub(super) enum Handshake {
    Secure,
    /// The client speaks plain HTTP. What it sent is dropped.
    NotTls,
}

impl TlsStream {
    /// Without a handshake yet. Fails only where `config` cannot serve at all.
    pub fn new(tcp: TcpStream, config: &Arc<ServerConfig>) -> io::Result<Self> {
        let connection = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
        let session = Session { connection, incoming: Input::default(), owed: 0, heard: false, broken: false };
        Ok(Self { tcp, session: RefCell::new(session) })
    }

    pub fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Handshake>> {
        self.session.get_mut().poll_handshake(&mut self.tcp, cx)
    }

    pub fn split(&mut self) -> (TlsReader<'_>, TlsWriter<'_>) {
        let (reader, writer) = self.tcp.split();
        (TlsReader { tcp: reader, session: &self.session }, TlsWriter { tcp: writer, session: &self.session })
    }

    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    pub fn into_tcp(self) -> TcpStream {
        self.tcp
    }
}

/// The half that a client sends on. Reading may also send: alerts, and what keys need.
pub(super) struct TlsReader<'c> {
    tcp: ReadHalf<'c>,
    session: &'c RefCell<Session>,
}

impl TlsReader<'_> {
    pub fn poll_read(&mut self, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.session.borrow_mut().poll_read(&mut self.tcp, cx, room)
    }

    pub fn tcp(&self) -> &TcpStream {
        self.tcp.as_ref()
    }
}

/// The half that a client is answered on.
pub(super) struct TlsWriter<'c> {
    tcp: WriteHalf<'c>,
    session: &'c RefCell<Session>,
}

impl TlsWriter<'_> {
    /// Takes bytes only as the kernel takes their records. After `Pending` the next call must bring the same bytes.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.session.borrow_mut().poll_write(self.tcp.as_ref(), cx, pieces)
    }

    /// Sends `close_notify`, and then the connection's end.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        {
            let mut session = self.session.borrow_mut();
            session.connection.send_close_notify();
            ready!(session.poll_send_all(self.tcp.as_ref(), cx))?;
        }
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    /// Sends `close_notify` where the kernel takes it at once.
    pub fn say_goodbye(&mut self) {
        let mut session = self.session.borrow_mut();
        session.connection.send_close_notify();
        session.send_now(self.tcp.as_ref());
    }

    pub fn tcp(&self) -> &TcpStream {
        self.tcp.as_ref()
    }
}

struct Session {
    connection: ServerConnection,
    /// Records as they came, not yet given to `connection`. Holds no memory while it waits.
    incoming: Input,
    /// Bytes of an answer that are encrypted, and not yet counted as written.
    owed: usize,
    /// Something came.
    heard: bool,
    /// No more can be read: the client broke the protocol.
    broken: bool,
}

impl Session {
    fn poll_handshake(&mut self, tcp: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<Handshake>> {
        loop {
            ready!(self.poll_send_all(tcp, cx))?;
            if !self.connection.is_handshaking() {
                return Poll::Ready(Ok(Handshake::Secure));
            }
            if self.incoming.is_empty() && ready!(poll_fill(tcp, &mut self.incoming, cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            // A method's first letter begins no TLS record.
            if !std::mem::replace(&mut self.heard, true) && self.incoming.filled()[0].is_ascii_uppercase() {
                return Poll::Ready(Ok(Handshake::NotTls));
            }
            self.take(tcp)?;
        }
    }

    fn poll_read(
        &mut self,
        tcp: &mut ReadHalf<'_>,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = room.filled().len();
        loop {
            match self.connection.reader().read(room.initialize_unfilled()) {
                // The client's `close_notify`, after which nothing counts.
                Ok(0) => {
                    self.incoming.consume(self.incoming.len());
                    self.incoming.release();
                    return Poll::Ready(Ok(()));
                }
                Ok(read) => room.advance(read),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // It ended without one.
                Err(error) => return Poll::Ready(Err(error)),
            }
            let some = room.filled().len() > before;
            if some && (room.remaining() == 0 || self.incoming.is_empty() || self.broken) {
                return Poll::Ready(Ok(()));
            }
            if self.broken {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
            if self.incoming.is_empty() && ready!(poll_fill(tcp, &mut self.incoming, cx))? == 0 {
                self.incoming.release();
                // Tells the connection of the end.
                self.connection.read_tls(&mut io::empty())?;
            } else if let Err(error) = self.take(tcp.as_ref()) {
                tracing::debug!(%error, "a client broke the TLS protocol");
            }
        }
    }

    /// Has the connection take a piece of what came, and sends what it says to that, as far as the kernel takes it now.
    fn take(&mut self, tcp: &TcpStream) -> io::Result<()> {
        let mut bytes = self.incoming.filled();
        let taken = self.connection.read_tls(&mut bytes)?;
        self.incoming.consume(taken);
        self.incoming.release();
        let processed = self.connection.process_new_packets();
        self.send_now(tcp);
        self.broken = processed.is_err();
        processed.map(drop).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    fn poll_write(&mut self, tcp: &TcpStream, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.owed == 0 {
            self.owed = self.encrypt(pieces)?;
        }
        let sent = ready!(self.poll_send(tcp, cx))?;
        // Where only a part went, a part counts, so that a slow client is seen to move.
        let written = if self.connection.wants_write() { sent.min(self.owed.saturating_sub(1)) } else { self.owed };
        if written == 0 && self.connection.wants_write() {
            // The last attempt to send asked to be woken.
            return Poll::Pending;
        }
        self.owed -= written;
        Poll::Ready(Ok(written))
    }

    fn encrypt(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut writer = self.connection.writer();
        let (mut room, mut taken) = (ENCRYPTED_AT_ONCE, 0);
        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
            let bytes = &piece[..piece.len().min(room)];
            let written = writer.write(bytes)?;
            (room, taken) = (room - written, taken + written);
            if written < piece.len() {
                break;
            }
        }
        Ok(taken)
    }

    /// Sends what is waiting, until the kernel takes no more: how much went, at least something.
    fn poll_send(&mut self, tcp: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut sent = 0;
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Sink { tcp, cx: Some(cx) }) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(bytes) => sent += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && sent > 0 => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(sent))
    }

    fn poll_send_all(&mut self, tcp: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.connection.wants_write() {
            ready!(self.poll_send(tcp, cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what the kernel takes now; the rest goes with the next answer. Who cannot be sent to shows at the next read.
    fn send_now(&mut self, tcp: &TcpStream) {
        while self.connection.wants_write() {
            if !matches!(self.connection.write_tls(&mut Sink { tcp, cx: None }), Ok(1..)) {
                return;
            }
        }
    }
}

/// The socket as records are written to it; with a context, whoever is told to wait is woken.
struct Sink<'s, 'w> {
    tcp: &'s TcpStream,
    cx: Option<&'s mut Context<'w>>,
}

impl Write for Sink<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        loop {
            if let Some(cx) = &mut self.cx {
                match self.tcp.poll_write_ready(cx) {
                    Poll::Ready(ready) => ready?,
                    Poll::Pending => return Err(io::ErrorKind::WouldBlock.into()),
                }
            }
            match self.tcp.try_write_vectored(pieces) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.cx.is_some() => {}
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
