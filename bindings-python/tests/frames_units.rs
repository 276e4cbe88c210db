//! The parts of `frames` that need no interpreter: their unit tests run here, since the library itself is built for an
//! interpreter to load.
#![allow(dead_code)]

#[path = "../src/frames/characters.rs"]
mod characters;
#[path = "../src/frames/library.rs"]
mod library;
#[path = "../src/frames/lines.rs"]
mod lines;
#[path = "../src/frames/objects.rs"]
mod objects;
