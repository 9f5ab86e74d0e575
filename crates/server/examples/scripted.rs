//! A server whose model is a script, for testing real clients: `cargo run -p yushan-server --example scripted`.
//! Prints its address and serves until its standard input is closed.

use std::io::Read;
use std::sync::Arc;

use tokio::net::TcpListener;
use yushan_server::{Server, serve};

#[path = "../tests/scripted/mod.rs"]
mod scripted;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("http://{}", listener.local_addr()?);
    let disk = Arc::new(scripted::Memory::default());
    let mut server = Server::new(
        Arc::new(scripted::Fake::default()),
        disk.clone(),
        Arc::new(scripted::OneModel),
        Arc::new(scripted::TwoKeys::new(true)),
    );
    server.index = Some(disk);
    let closed = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    serve(listener, Arc::new(server), async {
        let _ = closed.await;
    })
    .await;
    Ok(())
}
