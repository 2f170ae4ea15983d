//! Draws a picture, encodes it as PNG and decodes it, with `image`.
#![forbid(unsafe_code)]

use std::io::Cursor;

use common::check;
use image::{ImageFormat, Rgb, RgbImage, imageops};
use oxide_plugin_api::prelude::*;

fn draw(seed: u64) -> Result<()> {
    let shade = (seed % 251) as u8;
    let picture = RgbImage::from_fn(48, 32, |x, y| Rgb([shade, x as u8 * 5, y as u8 * 7]));
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, ImageFormat::Png)?;
    let read = image::load_from_memory(file.get_ref())?.to_rgb8();
    check(read == picture, "the decoded picture")?;
    let small = imageops::resize(&read, 12, 8, imageops::FilterType::Triangle);
    check(small.get_pixel(6, 4)[0].abs_diff(shade) <= 1, "the shade")?;
    check(image::load_from_memory(&file.get_ref()[..40]).is_err(), "the answer to half a file")
}

common::stateless!(draw);
