//! Words of titles and queries.

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

/// What products are called, in made-up titles. Common words come first.
pub const WORDS: [&str; 64] = [
    "set",
    "black",
    "steel",
    "kitchen",
    "large",
    "classic",
    "garden",
    "lamp",
    "chair",
    "table",
    "wooden",
    "white",
    "café",
    "travel",
    "bag",
    "leather",
    "bottle",
    "glass",
    "small",
    "crème",
    "brush",
    "holder",
    "outdoor",
    "cotton",
    "blanket",
    "pillow",
    "knife",
    "bamboo",
    "board",
    "ceramic",
    "mug",
    "thermal",
    "rösti",
    "pan",
    "iron",
    "handle",
    "folding",
    "frame",
    "mirror",
    "bath",
    "towel",
    "hook",
    "shelf",
    "storage",
    "basket",
    "woven",
    "señorita",
    "dress",
    "scarf",
    "wool",
    "winter",
    "boots",
    "rubber",
    "mat",
    "soft",
    "rug",
    "façade",
    "paint",
    "roller",
    "ladder",
    "aluminium",
    "tool",
    "naïve",
    "poster",
];

/// The words of a text, in lower case.
pub fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

/// `text` in lower case and without accents: "Crème" becomes "creme".
pub fn fold_accents(text: &str) -> String {
    text.nfd().filter(|c| !is_combining_mark(*c)).flat_map(char::to_lowercase).collect()
}
