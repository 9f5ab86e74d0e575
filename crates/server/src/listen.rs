//! The listener: connections with deadlines.
//!
//! The key decision: hyper itself drives each connection, because a deadline for headers, a bound on their
//! number and size, and the peer's address belong to the connection and not to a handler.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tower::ServiceExt;

use crate::Server;

/// Headers a request may have, and bytes they and the request line may take.
const HEADERS: usize = 64;
const HEADER_BYTES: usize = 32 << 10;
/// Answers in the making may go on for so long after the server was told to stop.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Serves until `stop` is done, then lets answers in the making end, for a short while.
pub async fn serve(
    listener: TcpListener,
    server: Arc<Server>,
    stop: impl Future<Output = ()> + Send,
) {
    let deadline = server.deadline;
    let app = crate::router(server);
    let (stopping, stopped) = watch::channel(false);
    let mut stop = pin!(stop);
    loop {
        let (stream, peer) = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                // No file handles left, or the peer is gone already: others may do better soon.
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        tokio::spawn(connection(stream, peer, app.clone(), deadline, stopped.clone()));
    }
    drop((listener, stopped));
    let _ = stopping.send(true);
    // Every connection holds a receiver; the last one that ends closes the channel.
    let _ = tokio::time::timeout(LAST_WORDS, stopping.closed()).await;
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    app: Router,
    deadline: Duration,
    mut stopped: watch::Receiver<bool>,
) {
    // Tokens are small; waiting for more of them would only delay the first.
    let _ = stream.set_nodelay(true);
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        let app = app.clone();
        async move { Ok::<_, Infallible>(answer(app, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(deadline)
        .max_headers(HEADERS)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stopped.changed() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

async fn answer(app: Router, request: hyper::Request<Incoming>) -> axum::response::Response {
    let request: Request = request.map(axum::body::Body::new);
    match app.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
