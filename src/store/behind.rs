//! Owns a thread of its own that saves what many ask for in one flush: a save blocks for a millisecond or ten, and whoever
//! asks goes on meanwhile, or waits for it without holding a thread. Must not know what the records mean.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Change, Store, StoreError, Tree};

/// Edits that wait for the thread.
const WAITING_MAX: usize = 4_096;
/// Edits, and bytes, that one flush saves.
const TOGETHER_MAX: usize = 512;
const TOGETHER_BYTES_MAX: usize = 16 << 20;

/// What becomes of a record, given what it is: `None` leaves it.
pub type Edit = Box<dyn FnOnce(Option<&[u8]>) -> Option<Write> + Send>;
/// Called once what was asked for is on disk, or was not saved.
pub type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// What an edit does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Write {
    Put(Vec<u8>),
    Remove,
}

/// What happens every so often on the thread: changes that are due. It is asked again once these are saved: those that could
/// not be are tried again.
pub type Due = Box<dyn FnMut() -> Vec<Change> + Send>;

enum Job {
    Edit(Asked),
    Stop,
}

struct Asked {
    tree: Tree,
    key: String,
    edit: Edit,
    done: Done,
}

/// The thread. Dropped, it saves what was asked for, and ends.
pub struct Behind {
    send: SyncSender<Job>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Behind {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Asks the thread; cheap to clone.
#[derive(Clone)]
pub struct Asker(SyncSender<Job>);

impl Behind {
    /// Starts the thread; every `interval`, and once at the end, it saves what `due` says.
    pub fn begin(store: Store, name: &str, interval: Duration, due: Due) -> io::Result<Self> {
        let (send, jobs) = sync_channel(WAITING_MAX);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || Writer { store, due, unsaved: Vec::new() }.run(&jobs, interval))?;
        Ok(Self { send, thread: Mutex::new(Some(thread)) })
    }

    pub fn asker(&self) -> Asker {
        Asker(self.send.clone())
    }

    /// Waits for the last save. Askers that are left are refused from then on.
    pub fn stop(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Refused only where the thread has ended already.
        let _ = self.send.send(Job::Stop);
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that saves records behind had panicked");
        }
    }
}

impl Asker {
    /// Has a record edited, after all edits of it that were asked for before; `done` hears once it is on disk.
    /// `Err`: too many wait, or the thread has ended; nothing is done.
    pub fn edit(&self, tree: Tree, key: String, edit: Edit, done: Done) -> Result<(), StoreError> {
        self.0.try_send(Job::Edit(Asked { tree, key, edit, done })).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::Failed("too many records wait to be saved".to_owned()),
            TrySendError::Disconnected(_) => StoreError::Failed("the node is stopping".to_owned()),
        })
    }
}

struct Writer {
    store: Store,
    due: Due,
    /// Was due, and could not be saved yet.
    unsaved: Vec<Change>,
}

impl Writer {
    fn run(&mut self, jobs: &Receiver<Job>, interval: Duration) {
        let mut next = std::time::Instant::now() + interval;
        loop {
            let wait = next.saturating_duration_since(std::time::Instant::now());
            match jobs.recv_timeout(wait) {
                Ok(Job::Edit(asked)) => {
                    if self.save(asked, jobs) {
                        return self.save_due();
                    }
                }
                Ok(Job::Stop) | Err(RecvTimeoutError::Disconnected) => return self.save_due(),
                Err(RecvTimeoutError::Timeout) => {
                    self.save_due();
                    next = std::time::Instant::now() + interval;
                }
            }
        }
    }

    fn save_due(&mut self) {
        let unsaved = std::mem::take(&mut self.unsaved);
        let is_late = !unsaved.is_empty();
        if is_late && !self.try_save(unsaved, is_late) {
            return;
        }
        let changes = (self.due)();
        if !changes.is_empty() {
            self.try_save(changes, false);
        }
    }

    fn try_save(&mut self, changes: Vec<Change>, is_late: bool) -> bool {
        let saved = self.store.save_all(&changes);
        match &saved {
            Ok(()) if is_late => tracing::info!("records that could not be saved now are"),
            Ok(()) => {}
            Err(error) => {
                if !is_late {
                    tracing::error!(%error, "records are not saved: that is tried again and again");
                }
                self.unsaved = changes;
            }
        }
        saved.is_ok()
    }

    /// Saves an edit, and those that wait already; whether it is to stop.
    fn save(&mut self, first: Asked, jobs: &Receiver<Job>) -> bool {
        let mut together = Together { store: &self.store, now: BTreeMap::new(), bytes: 0, done: Vec::new() };
        together.take(first);
        let mut stops = false;
        while together.done.len() < TOGETHER_MAX && together.bytes < TOGETHER_BYTES_MAX {
            match jobs.try_recv() {
                Ok(Job::Edit(asked)) => together.take(asked),
                Ok(Job::Stop) => {
                    stops = true;
                    break;
                }
                Err(_) => break,
            }
        }
        // What was due before that is out of date.
        self.unsaved.retain(|change| !together.now.contains_key(&(change.tree, change.key.clone())));
        together.save();
        stops
    }
}

/// The edits of one flush.
struct Together<'a> {
    store: &'a Store,
    /// What records become.
    now: BTreeMap<(Tree, String), Option<Vec<u8>>>,
    bytes: usize,
    done: Vec<Done>,
}

impl Together<'_> {
    fn take(&mut self, asked: Asked) {
        let Asked { tree, key, edit, done } = asked;
        let key = (tree, key);
        let kept;
        let before = match self.now.get(&key) {
            Some(now) => now.as_deref(),
            None => match self.store.get_bytes(tree, &key.1) {
                Ok(found) => {
                    kept = found;
                    kept.as_deref()
                }
                Err(error) => return done(Err(error)),
            },
        };
        if let Some(write) = edit(before) {
            let value = match write {
                Write::Put(value) => Some(value),
                Write::Remove => None,
            };
            self.bytes += value.as_ref().map_or(0, Vec::len);
            self.now.insert(key, value);
        }
        self.done.push(done);
    }

    fn save(self) {
        let change = |((tree, key), value)| match value {
            Some(value) => Change::bytes(tree, key, value),
            None => Change::remove(tree, key),
        };
        let changes: Vec<_> = self.now.into_iter().map(change).collect();
        let saved = if changes.is_empty() { Ok(()) } else { self.store.save(changes) };
        let failed = saved.err().map(|error| error.to_string());
        for done in self.done {
            done(failed.clone().map_or(Ok(()), |error| Err(StoreError::Failed(error))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Options;
    use super::*;
    use std::sync::mpsc::channel;

    fn store(dir: &std::path::Path) -> Store {
        Store::open(dir, "now", Options::default()).unwrap().store
    }

    #[test]
    fn edits_of_a_record_follow_each_other_and_each_is_on_disk_before_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let behind = Behind::begin(store.clone(), "t", Duration::from_secs(60), Box::new(Vec::new)).unwrap();
        let asker = behind.asker();
        let (tell, told) = channel();
        for number in 0..100_u8 {
            let (tell, seen) = (tell.clone(), store.clone());
            // Each adds a byte to what those before it left.
            let edit: Edit = Box::new(move |before| {
                let mut bytes = before.unwrap_or_default().to_vec();
                bytes.push(number);
                Some(Write::Put(bytes))
            });
            let done: Done = Box::new(move |saved| {
                saved.unwrap();
                tell.send(seen.get_bytes(Tree::Sessions, "a").unwrap().unwrap().len()).unwrap();
            });
            asker.edit(Tree::Sessions, "a".to_owned(), edit, done).unwrap();
        }
        for number in 1..=100 {
            assert!(told.recv().unwrap() >= number);
        }
        assert_eq!(store.get_bytes(Tree::Sessions, "a").unwrap().unwrap(), (0..100).collect::<Vec<u8>>());
    }

    #[test]
    fn what_could_not_be_saved_is_tried_again_before_anything_else_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        // Without it no save can be made to last.
        let (part, away) = (dir.path().join("sled/blobs"), dir.path().join("away"));
        let (tell, told) = channel();
        let (mut count, moved) = (0_u8, (part.clone(), away.clone()));
        let due: Due = Box::new(move || {
            count += 1;
            if count == 1 {
                std::fs::rename(&moved.0, &moved.1).unwrap();
            }
            let _ = tell.send(count);
            vec![Change::bytes(Tree::Sessions, format!("n{count}"), vec![count])]
        });
        let behind = Behind::begin(store.clone(), "t", Duration::from_millis(1), due).unwrap();
        assert_eq!(told.recv(), Ok(1));
        assert!(told.recv_timeout(Duration::from_millis(50)).is_err(), "the first is not saved");
        // An edit of the same record meanwhile is the later word, though it is not saved either.
        let (done, heard) = channel();
        let edit: Edit = Box::new(|_| Some(Write::Put(b"edited".to_vec())));
        let asked =
            behind.asker().edit(Tree::Sessions, "n1".into(), edit, Box::new(move |saved| done.send(saved).unwrap()));
        asked.unwrap();
        assert!(heard.recv().unwrap().is_err());
        std::fs::rename(&away, &part).unwrap();
        assert_eq!(told.recv(), Ok(2));
        drop(behind);
        assert_eq!(store.get_bytes(Tree::Sessions, "n1").unwrap().unwrap(), b"edited");
        assert_eq!(store.get_bytes(Tree::Sessions, "n2").unwrap().unwrap(), [2]);
    }

    #[test]
    fn what_is_due_is_saved_every_so_often_and_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let (tell, told) = channel();
        let mut count = 0;
        let due: Due = Box::new(move || {
            count += 1;
            let _ = tell.send(());
            vec![Change::bytes(Tree::Sessions, "n", vec![count])]
        });
        let behind = Behind::begin(store.clone(), "t", Duration::from_millis(1), due).unwrap();
        told.recv().unwrap();
        told.recv().unwrap();
        drop(behind);
        let times = 2 + told.try_iter().count();
        assert_eq!(store.get_bytes(Tree::Sessions, "n").unwrap().unwrap(), [times as u8]);
    }
}
