//! The products, and search over them: an index from words to products, and a score for each candidate.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::Random;
use crate::text::{WORDS, fold_accents, words};

const CATEGORIES: [&str; 6] = ["home", "garden", "kitchen", "fashion", "outdoor", "art"];
/// A word in the first places of a title counts this much more than one at its end.
const PLACES: usize = 8;

#[derive(Serialize)]
pub struct Product {
    pub id: usize,
    pub title: String,
    pub category: &'static str,
    pub price_cents: u64,
    pub rating: f64,
    /// The words of the title, ready for scoring.
    #[serde(skip)]
    words: Vec<String>,
}

#[derive(Clone, Serialize)]
pub struct Hit {
    pub id: usize,
    pub title: String,
    pub score: f64,
}

#[derive(Serialize)]
pub struct CategoryReport {
    pub category: &'static str,
    pub products: usize,
    pub median_cents: u64,
    pub dearest: Vec<String>,
}

pub struct Catalogue {
    products: Vec<Product>,
    index: HashMap<String, Vec<usize>>,
}

impl Catalogue {
    /// A made-up catalogue of `count` products, the same every time.
    pub fn generate(count: usize) -> Self {
        let mut random = Random::new(7);
        let products: Vec<Product> = (0..count).map(|id| Product::generate(id, &mut random)).collect();
        let mut index: HashMap<String, Vec<usize>> = HashMap::new();
        for product in &products {
            for word in &product.words {
                let places = index.entry(fold_accents(word)).or_default();
                if places.last() != Some(&product.id) {
                    places.push(product.id);
                }
            }
        }
        Self { products, index }
    }

    pub fn get(&self, id: usize) -> Option<&Product> {
        self.products.get(id)
    }

    /// The best `limit` products for a query.
    pub fn search(&self, query: &str, limit: usize) -> Vec<Hit> {
        let wanted: Vec<String> = words(query).iter().map(|word| fold_accents(word)).collect();
        let mut hits: Vec<(f64, usize)> = self
            .candidates(&wanted)
            .into_iter()
            .map(|(id, words)| (self.products[id].score(&wanted) * words as f64, id))
            .filter(|(score, _)| *score > 0.0)
            .collect();
        hits.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        hits.truncate(limit);
        hits.into_iter()
            .map(|(score, id)| Hit { id, title: self.products[id].title.clone(), score })
            .collect()
    }

    /// The products that have at least one of the words, with how many they have.
    fn candidates(&self, wanted: &[String]) -> BTreeMap<usize, usize> {
        let mut found = BTreeMap::new();
        for word in wanted {
            for id in self.index.get(word).into_iter().flatten() {
                *found.entry(*id).or_default() += 1;
            }
        }
        found
    }

    /// Prices by category.
    pub fn report(&self) -> Vec<CategoryReport> {
        CATEGORIES.iter().map(|category| self.category_report(category)).collect()
    }

    fn category_report(&self, category: &'static str) -> CategoryReport {
        let mut products: Vec<&Product> = self.products.iter().filter(|p| p.category == category).collect();
        products.sort_by_key(|product| product.price_cents);
        CategoryReport {
            category,
            products: products.len(),
            median_cents: products.get(products.len() / 2).map_or(0, |product| product.price_cents),
            dearest: products.iter().rev().take(100).map(|product| product.title.clone()).collect(),
        }
    }
}

impl Product {
    fn generate(id: usize, random: &mut Random) -> Self {
        let length = 4 + random.below(PLACES - 4);
        // The product of two draws favours the words at the front of the list, as real vocabularies do.
        let mut word = || WORDS[random.below(WORDS.len()) * random.below(WORDS.len()) / WORDS.len()];
        let title = (0..length).map(|_| word()).collect::<Vec<_>>().join(" ");
        let words = words(&title);
        Self {
            id,
            title,
            category: CATEGORIES[random.below(CATEGORIES.len())],
            price_cents: 199 + random.below(30_000) as u64,
            rating: 1.0 + random.below(41) as f64 / 10.0,
            words,
        }
    }

    /// How well the title answers the query: early words count more, and a good rating counts a little.
    fn score(&self, wanted: &[String]) -> f64 {
        let mut score = 0.0;
        for (place, word) in self.words.iter().enumerate() {
            if wanted.iter().any(|wanted| matches(word, wanted)) {
                score += (PLACES - place) as f64;
            }
        }
        score * (1.0 + self.rating / 50.0)
    }
}

#[cfg(not(feature = "v1_1"))]
fn matches(word: &str, wanted: &str) -> bool {
    word == wanted
}

/// New in 1.1: a query for "creme" finds "Crème". Folding each word again for every candidate is the regression that
/// the demo's differential flame graph finds; the index had folded them once and for all.
#[cfg(feature = "v1_1")]
fn matches(word: &str, wanted: &str) -> bool {
    fold_accents(word) == wanted
}
