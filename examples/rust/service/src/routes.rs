//! The shop's routes.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{MatchedPath, Path, Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use everprof::Labels;
use serde::{Deserialize, Serialize};
use tower_http::compression::CompressionLayer;

use crate::cache::Cache;
use crate::catalogue::{Catalogue, CategoryReport, Hit};
use crate::upstream::{Stock, StockClient};

pub struct Shop {
    catalogue: Catalogue,
    stock: StockClient,
    hits: Cache<String, Vec<Hit>>,
    pieces: Cache<usize, Stock>,
}

impl Shop {
    pub fn new(catalogue: Catalogue, stock: StockClient) -> Self {
        let hits = Cache::new(500, Duration::from_secs(2));
        let pieces = Cache::new(2000, Duration::from_secs(5));
        Self { catalogue, stock, hits, pieces }
    }
}

/// The routes over a shop, with compressed answers.
pub fn router(shop: Arc<Shop>) -> Router {
    Router::new()
        .route("/search", get(search))
        .route("/product/{id}", get(product))
        .route("/order", post(order))
        .route("/report", get(report))
        .layer(CompressionLayer::new())
        .route_layer(from_fn(labelled))
        .with_state(shop)
}

/// Labels the samples of a request with its endpoint, wherever the runtime moves its task.
async fn labelled(request: Request, next: Next) -> Response {
    let endpoint = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str);
    let labels = Labels::new([("endpoint", endpoint)]);
    labels.wrap(next.run(request)).await
}

#[derive(Deserialize)]
struct SearchQuery {
    q: String,
}

async fn search(State(shop): State<Arc<Shop>>, Query(query): Query<SearchQuery>) -> Json<Vec<Hit>> {
    if let Some(hits) = shop.hits.get(&query.q) {
        return Json(hits);
    }
    let hits = shop.catalogue.search(&query.q, 20);
    shop.hits.put(query.q, hits.clone());
    Json(hits)
}

#[derive(Serialize)]
struct ProductPage {
    title: String,
    category: &'static str,
    price_cents: u64,
    pieces: usize,
    similar: Vec<Hit>,
}

async fn product(
    State(shop): State<Arc<Shop>>,
    Path(id): Path<usize>,
) -> Result<Json<ProductPage>, (StatusCode, String)> {
    let product = shop.catalogue.get(id).ok_or((StatusCode::NOT_FOUND, format!("no product {id}")))?;
    let stock = match shop.pieces.get(&id) {
        Some(stock) => stock,
        None => {
            let stock =
                shop.stock.stock(id).await.map_err(|error| (StatusCode::BAD_GATEWAY, error.to_string()))?;
            shop.pieces.put(id, stock.clone());
            stock
        }
    };
    let last_word = product.title.rsplit(' ').next().unwrap_or_default();
    Ok(Json(ProductPage {
        title: product.title.clone(),
        category: product.category,
        price_cents: product.price_cents,
        pieces: stock.pieces,
        similar: shop.catalogue.search(last_word, 5),
    }))
}

#[derive(Deserialize)]
struct Order {
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    id: usize,
    pieces: u64,
}

#[derive(Serialize)]
struct Receipt {
    lines: Vec<String>,
    total_cents: u64,
}

async fn order(
    State(shop): State<Arc<Shop>>,
    Json(order): Json<Order>,
) -> Result<Json<Receipt>, (StatusCode, String)> {
    let mut receipt = Receipt { lines: Vec::new(), total_cents: 0 };
    for item in order.items {
        let missing = || (StatusCode::UNPROCESSABLE_ENTITY, format!("no product {}", item.id));
        let product = shop.catalogue.get(item.id).ok_or_else(missing)?;
        receipt.lines.push(format!("{} x {}", item.pieces, product.title));
        receipt.total_cents =
            receipt.total_cents.saturating_add(product.price_cents.saturating_mul(item.pieces));
    }
    Ok(Json(receipt))
}

async fn report(State(shop): State<Arc<Shop>>) -> Json<Vec<CategoryReport>> {
    Json(shop.catalogue.report())
}
