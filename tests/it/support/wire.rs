//! Owns a wire between a node and management that a test can cut, as a network does: nothing is refused, nothing
//! arrives. Must not know what travels.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Between two looks at whether the wire is cut.
const LOOK: Duration = Duration::from_millis(20);

/// Connections to `address` go on to their target, unless it is cut.
pub struct Wire {
    pub address: SocketAddr,
    state: Arc<State>,
}

struct State {
    target: SocketAddr,
    cut: AtomicBool,
    over: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Wire {
    pub fn lay(address: SocketAddr, target: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (cut, over, open) = (AtomicBool::new(false), AtomicBool::new(false), Mutex::default());
        let state = Arc::new(State { target, cut, over, open });
        let ours = state.clone();
        std::thread::spawn(move || ours.accept(&listener));
        Self { address, state }
    }

    pub fn cut(&self) {
        self.state.cut.store(true, SeqCst);
    }

    /// New connections pass again; those that were open when it was cut are lost.
    pub fn mend(&self) {
        self.state.close();
        self.state.cut.store(false, SeqCst);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.state.over.store(true, SeqCst);
        self.state.close();
    }
}

impl State {
    fn accept(self: Arc<Self>, listener: &TcpListener) {
        while !self.over.load(SeqCst) {
            match listener.accept() {
                Ok((client, _)) => self.clone().connect(client),
                Err(_) => std::thread::sleep(LOOK),
            }
        }
    }

    fn connect(self: Arc<Self>, client: TcpStream) {
        client.set_nonblocking(false).unwrap();
        let mut open = self.open.lock().unwrap();
        open.push(client.try_clone().unwrap());
        // While it is cut, whoever calls is heard by nobody.
        if self.cut.load(SeqCst) {
            return;
        }
        let Ok(target) = TcpStream::connect(self.target) else {
            let _ = client.shutdown(Shutdown::Both);
            return;
        };
        open.push(target.try_clone().unwrap());
        drop(open);
        for (from, to) in [(client.try_clone(), target.try_clone()), (Ok(target), Ok(client))] {
            let (state, from, to) = (self.clone(), from.unwrap(), to.unwrap());
            std::thread::spawn(move || state.relay(from, to));
        }
    }

    fn relay(&self, mut from: TcpStream, mut to: TcpStream) {
        from.set_read_timeout(Some(LOOK)).unwrap();
        let mut buffer = [0; 16 * 1024];
        while !self.over.load(SeqCst) {
            let count = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                Err(_) => break,
            };
            if self.cut.load(SeqCst) {
                // What was on its way is lost, and the ends do not know.
                return;
            }
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }

    fn close(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
