//! Owns what a client's connection is made of: a plain socket, or TLS on one; and its two halves. Must not know HTTP.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::net::SendFlags;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use super::tls::{TlsReader, TlsStream, TlsWriter};

/// A client's connection. Only TLS pays for TLS: it is on the heap.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

impl Stream {
    pub fn split(&mut self) -> (Reader<'_>, Writer<'_>) {
        match self {
            Self::Plain(tcp) => {
                let (reader, writer) = tcp.split();
                (Reader::Plain(reader), Writer::Plain(writer))
            }
            Self::Tls(tls) => {
                let (reader, writer) = tls.split();
                (Reader::Tls(reader), Writer::Tls(writer))
            }
        }
    }

    /// The socket, for its options.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.tcp(),
        }
    }
}

/// Sends what the kernel takes at once; an error of `WouldBlock`: it must be waited for. Not by the C library, where each
/// such call is a place at which a thread can be cancelled, which costs two atomic operations.
#[inline]
pub(super) fn send_now(tcp: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    tcp.try_io(Interest::WRITABLE, || Ok(rustix::net::send(tcp, bytes, SendFlags::NOSIGNAL)?))
}

/// The half that a client sends on.
pub(super) enum Reader<'c> {
    Plain(ReadHalf<'c>),
    Tls(TlsReader<'c>),
}

impl Reader<'_> {
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(reader) => reader.as_ref(),
            Self::Tls(reader) => reader.tcp(),
        }
    }
}

impl AsyncRead for Reader<'_> {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(reader) => Pin::new(reader).poll_read(cx, room),
            Self::Tls(reader) => reader.poll_read(cx, room),
        }
    }
}

/// The half that a client is answered on.
pub(super) enum Writer<'c> {
    Plain(WriteHalf<'c>),
    Tls(TlsWriter<'c>),
}

impl Writer<'_> {
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(writer) => writer.as_ref(),
            Self::Tls(writer) => writer.tcp(),
        }
    }

    /// Whether what is written here goes to the socket as it is.
    pub fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// Writes what is taken at once; an error of `WouldBlock`: it must be waited for.
    #[inline]
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(writer) => send_now(writer.as_ref(), bytes),
            Self::Tls(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Tells a client between two requests that the connection ends, where its protocol has a word for it.
    pub fn say_goodbye(&mut self) {
        if let Self::Tls(writer) = self {
            writer.say_goodbye();
        }
    }
}

impl AsRef<TcpStream> for Writer<'_> {
    fn as_ref(&self) -> &TcpStream {
        self.tcp()
    }
}

impl AsyncWrite for Writer<'_> {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(writer) => Pin::new(writer).poll_write(cx, bytes),
            Self::Tls(writer) => writer.poll_write(cx, &[IoSlice::new(bytes)]),
        }
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(writer) => Pin::new(writer).poll_write_vectored(cx, pieces),
            Self::Tls(writer) => writer.poll_write(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What was taken is in the kernel already.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(writer) => Pin::new(writer).poll_shutdown(cx),
            Self::Tls(writer) => writer.poll_shutdown(cx),
        }
    }
}
