//! The shop. `SHOP_ADDRESS` says where it listens (default: any free port of the loopback).

use std::sync::Arc;

use shop::catalogue::Catalogue;
use shop::pprof;
use shop::routes::{Shop, router};
use shop::upstream::{self, StockClient};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

// So that allocations are in the profiles.
#[global_allocator]
static ALLOCATOR: everprof::Allocator = everprof::Allocator::new();

const PRODUCTS: usize = 50_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let _profiler = everprof::Profiler::start()?;
    let stock = TcpListener::bind("127.0.0.1:0").await?;
    let stock_client = StockClient::new(stock.local_addr()?);
    tokio::spawn(async { axum::serve(stock, upstream::router()).await });

    let shop = Arc::new(Shop::new(Catalogue::generate(PRODUCTS), stock_client));
    let address = std::env::var("SHOP_ADDRESS").unwrap_or_else(|_| "127.0.0.1:0".into());
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);

    let mut terminate = signal(SignalKind::terminate())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    axum::serve(listener, router(shop).merge(pprof::router())).with_graceful_shutdown(stop).await?;
    Ok(())
}
