//! The stock service: another server, on another port, that takes its time; and the pool of connections to it.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::extract::Path;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use crate::client::{Client, Error};

#[derive(Clone, Serialize, Deserialize)]
pub struct Stock {
    pub id: usize,
    pub pieces: usize,
}

/// The routes of the stock service. An answer takes 20 to 50 ms.
pub fn router() -> Router {
    Router::new().route("/stock/{id}", get(stock))
}

async fn stock(Path(id): Path<usize>) -> Json<Stock> {
    tokio::time::sleep(Duration::from_millis(20 + id as u64 % 31)).await;
    Json(Stock { id, pieces: id * 7919 % 90 })
}

/// Asks the stock service over kept connections.
pub struct StockClient {
    address: SocketAddr,
    idle: Mutex<Vec<Client>>,
}

impl StockClient {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, idle: Mutex::new(Vec::new()) }
    }

    pub async fn stock(&self, id: usize) -> Result<Stock, Error> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut client = idle.unwrap_or_else(|| Client::new(self.address));
        let (status, body) = client.get(&format!("/stock/{id}")).await?;
        if !status.is_success() {
            return Err(format!("the stock service answered {status}").into());
        }
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(client);
        Ok(serde_json::from_slice(&body)?)
    }
}
