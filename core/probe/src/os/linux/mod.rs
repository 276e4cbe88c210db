//! Linux: raw calls through libc.

mod pages;

pub use pages::Pages;
