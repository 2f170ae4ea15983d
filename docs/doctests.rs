//! The examples of the documents, as doctests. There is nothing else here.

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
pub struct Readme;

#[doc = include_str!("writing-a-plugin.md")]
#[cfg(doctest)]
pub struct WritingAPlugin;

#[doc = include_str!("embedding.md")]
#[cfg(doctest)]
pub struct Embedding;

#[doc = include_str!("abi.md")]
#[cfg(doctest)]
pub struct Abi;
