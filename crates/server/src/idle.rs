//! Connections: how many there are, and which give way when there are too many.
//!
//! A connection without a request under way costs nothing but its place. When all places are taken, the
//! one that has been idle for longest ends, so that thousands of idle connections keep nobody out.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::{Request, Response};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// All connections of a server.
pub(crate) struct Connections {
    places: Arc<Semaphore>,
    /// By the number that they were given when they last became idle, or began.
    open: Arc<Mutex<BTreeMap<u64, Arc<State>>>>,
    next: Arc<AtomicU64>,
}

/// What is known of a connection.
struct State {
    number: AtomicU64,
    /// Requests under way.
    requests: AtomicUsize,
    /// Whether it was told to end.
    told: AtomicBool,
    end: Notify,
}

/// A connection's place among the others. It is given back with the last clone.
#[derive(Clone)]
pub(crate) struct Place(Arc<Held>);

struct Held {
    state: Arc<State>,
    open: Arc<Mutex<BTreeMap<u64, Arc<State>>>>,
    next: Arc<AtomicU64>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Connections {
    pub fn new(most: usize) -> Self {
        let places = Arc::new(Semaphore::new(most));
        Self { places, open: Arc::default(), next: Arc::default() }
    }

    /// A place, as soon as there is one: idle connections are ended for it.
    pub async fn place(&self) -> Place {
        let permit = match self.places.clone().try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) => {
                self.end_idle();
                // It is never closed.
                self.places.clone().acquire_owned().await.ok()
            }
        };
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let state = Arc::new(State {
            number: AtomicU64::new(number),
            requests: AtomicUsize::new(0),
            told: AtomicBool::new(false),
            end: Notify::new(),
        });
        lock(&self.open).insert(number, state.clone());
        let (open, next) = (self.open.clone(), self.next.clone());
        Place(Arc::new(Held { state, open, next, _permit: permit }))
    }

    /// Tells the connection that has been idle for longest to end, if one is.
    pub fn end_idle(&self) {
        let open = lock(&self.open);
        let idle = open.values().find(|state| {
            state.requests.load(Ordering::Acquire) == 0 && !state.told.load(Ordering::Acquire)
        });
        if let Some(idle) = idle {
            idle.told.store(true, Ordering::Release);
            idle.end.notify_one();
        }
    }
}

impl Place {
    /// Waits until the place is wanted by somebody else.
    pub async fn wanted_elsewhere(&self) {
        self.0.state.end.notified().await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        lock(&self.open).remove(&self.state.number.load(Ordering::Acquire));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request under way, until the last byte of its response is handed over.
struct Busy(Place);

impl Busy {
    fn new(place: Place) -> Self {
        place.0.state.requests.fetch_add(1, Ordering::AcqRel);
        Self(place)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let held = &self.0.0;
        // From now on it is the youngest of those that are idle.
        let mut open = lock(&held.open);
        let number = held.next.fetch_add(1, Ordering::Relaxed);
        open.remove(&held.state.number.swap(number, Ordering::AcqRel));
        open.insert(number, held.state.clone());
        held.state.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The server's answers, counted as requests of a connection.
#[derive(Clone)]
pub(crate) struct Counting {
    router: TowerToHyperService<axum::Router>,
    place: Place,
}

impl Counting {
    pub fn new(router: axum::Router, place: Place) -> Self {
        Self { router: TowerToHyperService::new(router), place }
    }
}

impl Service<Request<Incoming>> for Counting {
    type Response = Response<Counted>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let busy = Busy::new(self.place.clone());
        let answer = self.router.call(request);
        Box::pin(async move {
            let response = answer.await?;
            Ok(response.map(|body| Counted { body, _busy: busy }))
        })
    }
}

/// A body that counts as a request until it is gone.
pub(crate) struct Counted {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_idle_gives_way_and_the_busy_stay() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let connections = Connections::new(3);
            let (a, b, c) =
                (connections.place().await, connections.place().await, connections.place().await);
            let busy = Busy::new(a.clone());
            // It was used after the third began, so that is the oldest now.
            drop(Busy::new(b.clone()));
            let told = |place: &Place| place.0.state.told.load(Ordering::Acquire);
            let fourth = tokio::select! {
                place = connections.place() => place,
                () = async { c.wanted_elsewhere().await; drop(c); std::future::pending().await } => unreachable!(),
            };
            assert!(!told(&a) && !told(&b));
            connections.end_idle();
            assert!(told(&b) && !told(&a) && !told(&fourth));
            drop((busy, a, b, fourth));
            assert!(lock(&connections.open).is_empty());
        });
    }
}
