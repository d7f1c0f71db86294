//! Listening, connections, and an orderly end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use keeve_engine::ModelInfo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::api;
use crate::app::{App, ServerConfig, Shared};
use crate::error::ApiError;
use crate::idle::{Connections, Counting};
use crate::models::{ModelSource, Models, ModelsConfig};
use crate::slow::Patient;

/// Headers of a request, at most, and the bytes of its head.
const MOST_HEADERS: usize = 64;
const HEAD_BYTES: usize = 32 << 10;

/// Threads that talk to clients. The work is done by the engine's own.
const WORKERS: usize = 2;

/// Idle connections that are ended when the system has no file handles left.
const ENDED_FOR_HANDLES: usize = 32;

/// How often the engines are looked at.
const WATCH: Duration = Duration::from_millis(500);

/// Why a server does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The address cannot be had.
    #[error("cannot listen at {host}:{port}: {source}")]
    Listen {
        /// The host asked for.
        host: String,
        /// The port asked for.
        port: u16,
        /// Why not.
        source: std::io::Error,
    },
    /// The models make no sense together, or the first cannot be loaded.
    #[error("{0}")]
    Models(String),
    /// The system gives no threads or no address.
    #[error("cannot start: {0}")]
    Runtime(std::io::Error),
    /// An engine has died: the server cannot be trusted any more.
    #[error("internal error: an engine has died")]
    EngineDied,
}

/// A server that listens.
pub struct Server {
    listener: TcpListener,
    app: Shared,
}

impl Server {
    /// Begins to listen. Requests are answered once [`Self::run`] is called.
    ///
    /// # Errors
    /// If the address cannot be had, or two models have the same name.
    pub async fn bind(
        config: ServerConfig,
        models: Vec<ModelSource>,
        loading: ModelsConfig,
    ) -> Result<Self, ServerError> {
        let models = Models::new(models, loading).map_err(ServerError::Models)?;
        let listen =
            |source| ServerError::Listen { host: config.host.clone(), port: config.port, source };
        let listener = TcpListener::bind((&*config.host, config.port)).await.map_err(listen)?;
        let loopback = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
        Ok(Self { listener, app: Arc::new(App::new(config, models, loopback)) })
    }

    /// Where it listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers requests until `stop` is done; those that are running then have a while to end.
    /// `ready` is called with what the first model's engine says of itself, once it is loaded.
    ///
    /// # Errors
    /// If the first model cannot be loaded, or an engine dies.
    pub async fn run(
        self,
        stop: impl Future<Output = ()>,
        ready: impl FnOnce(&ModelInfo),
    ) -> Result<(), ServerError> {
        let Self { listener, app } = self;
        let router = api::router(app.clone());
        let connections = GracefulShutdown::new();
        let open = Connections::new(app.config.max_connections.clamp(1, 1 << 20));
        let accept = async {
            loop {
                let stream = match listener.accept().await {
                    Ok((stream, _)) => stream,
                    Err(_) => {
                        // Out of file handles, most likely: connections must end first.
                        (0..ENDED_FOR_HANDLES).for_each(|_| open.end_idle());
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        continue;
                    }
                };
                let place = open.place().await;
                let service = Counting::new(router.clone(), place.clone());
                let connection = connections.watch(connection(stream, service, &app.config));
                tokio::spawn(async move {
                    tokio::select! {
                        // A connection that breaks off concerns nobody else.
                        _ = connection => {}
                        () = place.wanted_elsewhere() => {}
                    }
                });
            }
        };
        let load = async {
            let model = app.models.load_first().await;
            model.map(|model| ready(model.engine.info())).map_err(|error| {
                let ApiError { message, .. } = error;
                ServerError::Models(message)
            })?;
            std::future::pending().await
        };
        let watch = async {
            while !app.models.any_dead() {
                tokio::time::sleep(WATCH).await;
            }
        };
        let outcome = tokio::select! {
            () = accept => Ok(()),
            failed = load => failed,
            () = watch => Err(ServerError::EngineDied),
            () = app.models.unload_unused() => Ok(()),
            () = stop => Ok(()),
        };
        drop(listener);
        app.draining.store(true, Ordering::Relaxed);
        outcome?;
        let dead = async {
            while !app.models.any_dead() {
                tokio::time::sleep(WATCH).await;
            }
        };
        tokio::select! {
            () = connections.shutdown() => Ok(()),
            () = tokio::time::sleep(app.config.drain_timeout) => Ok(()),
            () = dead => Err(ServerError::EngineDied),
        }
    }
}

/// One connection: HTTP/1.1, with limits on the head of each request.
fn connection(
    stream: TcpStream,
    service: Counting,
    config: &ServerConfig,
) -> http1::Connection<TokioIo<Patient<TcpStream>>, Counting> {
    // Without it, small pieces of an answer wait for each other. It works without, too.
    let _ = stream.set_nodelay(true);
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.head_timeout)
        .max_headers(MOST_HEADERS)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(Patient::new(stream, config.write_timeout)), service)
}

/// Tells a server to stop, from any thread.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<Notify>);

impl Stop {
    /// Asks for an orderly end.
    pub fn stop(&self) {
        self.0.notify_one();
    }
}

/// What a server tells whoever started it.
pub trait Observer {
    /// It listens at this address; the first model is not loaded yet.
    fn listening(&self, address: SocketAddr);

    /// The first model is loaded; this is what its engine says of itself.
    fn ready(&self, info: &ModelInfo);
}

/// Runs a server on this thread until it is told to stop.
///
/// # Errors
/// As [`Server::bind`] and [`Server::run`].
pub fn serve(
    config: ServerConfig,
    models: Vec<ModelSource>,
    loading: ModelsConfig,
    stop: &Stop,
    observer: &dyn Observer,
) -> Result<(), ServerError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("keeve-server")
        .enable_all()
        .build()
        .map_err(ServerError::Runtime)?;
    let outcome = runtime.block_on(async {
        let server = Server::bind(config, models, loading).await?;
        observer.listening(server.address().map_err(ServerError::Runtime)?);
        server.run(stop.0.notified(), |info| observer.ready(info)).await
    });
    // A model that is being loaded must not hold up the end.
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use keeve_codec::Bytes;
    use keeve_engine::{Event, Request};

    use super::*;

    #[test]
    fn the_death_of_an_engine_is_the_end_of_the_server() {
        let open = || {
            let files = keeve_demo_model::FILES.map(|(name, bytes)| (name, Bytes::new(bytes)));
            keeve_checkpoint::Checkpoint::from_memory(&files).map_err(|error| error.to_string())
        };
        let names = vec!["demo".into()];
        let source = ModelSource { names, open: Box::new(open), draft: None };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let outcome = runtime.block_on(async {
            let config = ServerConfig { port: 0, ..ServerConfig::default() };
            let server = Server::bind(config, vec![source], ModelsConfig::default()).await.unwrap();
            let model = server.app.models.load_first().await.unwrap();
            let (dead, died) = channel::<()>();
            let deadly = move |event: Event| {
                // Dropped as the thread unwinds.
                let _dead = &dead;
                assert!(!matches!(event, Event::Finished { .. }), "on purpose");
                true
            };
            let request = Request { prompt: vec![1], max_tokens: Some(1), ..Request::default() };
            model.engine.submit_to(request, deadly).unwrap();
            assert!(died.recv().is_err());
            server.run(std::future::pending(), |_| ()).await
        });
        assert!(matches!(outcome, Err(ServerError::EngineDied)), "{outcome:?}");
    }
}
