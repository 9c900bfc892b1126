//! How many requests a fake server has at once, and when it answers them.

use std::collections::HashMap;
use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::{Server, server::Wire};

/// The requests that a fake server works on. One whose connection is closed is over, whether its
/// thread has noticed or not: only so is "never two at once" measured and not guessed.
#[derive(Default)]
pub struct Load {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    open: HashMap<usize, TcpStream>,
    begun: usize,
    most: usize,
    /// Answers that may go out.
    permits: usize,
}

/// A request that is being worked on.
pub struct Turn {
    load: Arc<Load>,
    id: usize,
}

impl Load {
    /// Begins a request. To be ended right before the last bytes of its answer go out, as the
    /// other side may send its next one when it has them.
    pub fn begin(self: &Arc<Self>, wire: &Wire) -> Turn {
        let stream = wire.0.try_clone().unwrap();
        // both handles: nobody reads before the answer is out, and to look must not block
        stream.set_nonblocking(true).unwrap();
        let mut state = self.state.lock().unwrap();
        let id = state.begun;
        state.begun += 1;
        state.open.insert(id, stream);
        let open = state.open.values().filter(|stream| is_open(stream)).count();
        state.most = state.most.max(open);
        Turn {
            load: self.clone(),
            id,
        }
    }

    /// The most requests there were at once.
    pub fn most(&self) -> usize {
        self.state.lock().unwrap().most
    }

    /// The requests there are now.
    pub fn now(&self) -> usize {
        let state = self.state.lock().unwrap();
        state.open.values().filter(|stream| is_open(stream)).count()
    }

    /// Lets so many of the held requests be answered.
    pub fn release(&self, count: usize) {
        self.state.lock().unwrap().permits += count;
        self.changed.notify_all();
    }

    /// Lets all be answered from now on.
    pub fn release_all(&self) {
        self.release(1 << 40);
    }
}

impl Turn {
    /// Whether the other side still wants an answer.
    pub fn is_wanted(&self) -> bool {
        let state = self.load.state.lock().unwrap();
        state.open.get(&self.id).is_some_and(is_open)
    }

    /// Waits until the answer may go out; `false` if the other side left before.
    pub fn wait(&self) -> bool {
        let mut state = self.load.state.lock().unwrap();
        loop {
            if !state.open.get(&self.id).is_some_and(is_open) {
                return false;
            }
            if state.permits > 0 {
                state.permits -= 1;
                return true;
            }
            let waited = (self.load.changed).wait_timeout(state, Duration::from_millis(5));
            state = waited.unwrap().0;
        }
    }

    /// Ends it.
    pub fn end(self) {}
}

impl Drop for Turn {
    fn drop(&mut self) {
        let stream = self.load.state.lock().unwrap().open.remove(&self.id);
        let _ = stream.unwrap().set_nonblocking(false);
    }
}

fn is_open(stream: &TcpStream) -> bool {
    match stream.peek(&mut [0]) {
        Ok(read) => read > 0,
        Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
    }
}

impl Server {
    /// Answers `{"served_by":name}` when the test releases it, and at once to health probes.
    pub fn held(name: &'static str) -> (Self, Arc<Load>) {
        let load: Arc<Load> = Arc::default();
        let own = load.clone();
        let server = Self::fake(move |seen, wire| {
            if !seen.target.starts_with("/health") {
                let turn = own.begin(wire);
                if !turn.wait() {
                    return false;
                }
                turn.end();
            }
            wire.json(&format!("{{\"served_by\":\"{name}\"}}"));
            true
        });
        (server, load)
    }
}
