//! Whether a picture shows what another one does.

use image::GrayImage;

/// Lighter than this is paper.
const PAPER: u8 = 250;

/// How far the best place in `page` is from the ink of `words`: the mean difference of a pixel, 0 to 255. Both are PNGs.
pub(crate) fn distance(page: &[u8], words: &[u8]) -> f64 {
    let (page, words) = (gray(page), ink(&gray(words)));
    let (wide, high) = (words.width(), words.height());
    assert!(wide > 20 && high > 5, "there are no words to look for");
    let mut best = u64::MAX;
    for top in 0..=page.height() - high {
        for left in 0..=page.width() - wide {
            let mut sum = 0;
            for (x, y, pixel) in words.enumerate_pixels() {
                sum += u64::from(page.get_pixel(left + x, top + y)[0].abs_diff(pixel[0]));
                if sum >= best {
                    break;
                }
            }
            best = best.min(sum);
        }
    }
    best as f64 / f64::from(wide * high)
}

/// Pixels that are not paper.
pub(crate) fn inked(page: &[u8]) -> usize {
    gray(page).pixels().filter(|pixel| pixel[0] < PAPER).count()
}

fn gray(png: &[u8]) -> GrayImage {
    image::load_from_memory(png).expect("a picture").into_luma8()
}

/// The part that is not paper.
fn ink(picture: &GrayImage) -> GrayImage {
    let dark = || picture.enumerate_pixels().filter(|(.., pixel)| pixel[0] < PAPER);
    let (left, right) = (dark().map(|(x, ..)| x).min(), dark().map(|(x, ..)| x).max());
    let (top, bottom) = (dark().map(|(_, y, _)| y).min(), dark().map(|(_, y, _)| y).max());
    let (Some(left), Some(right), Some(top), Some(bottom)) = (left, right, top, bottom) else {
        panic!("an empty picture");
    };
    image::imageops::crop_imm(picture, left, top, right - left + 1, bottom - top + 1).to_image()
}
