//! Pictures, by the `image` crate.
//!
//! Width and height are read and checked before a pixel is. The turn that a camera noted is applied; no other metadata
//! goes into the new file, so no place and no time does either.

use std::io::Cursor;

use image::{
    DynamicImage, GenericImageView, ImageDecoder, ImageError, ImageFormat, ImageReader, Rgba,
    imageops,
};

use super::{ConvertError, Limits};

/// The largest side of an icon.
const ICON: u32 = 256;

/// Converts a picture.
pub(super) fn convert(
    bytes: &[u8],
    from: ImageFormat,
    to: ImageFormat,
    limits: &Limits,
    notes: &mut Vec<String>,
) -> Result<Vec<u8>, ConvertError> {
    if let Ok(real) = image::guess_format(bytes)
        && real != from
    {
        let name = real.extensions_str().first().copied().unwrap_or("another format");
        return Err(ConvertError::Malformed(format!(
            "the picture is really {name}; say so in `from`"
        )));
    }
    let picture = decoded(bytes, from, limits, notes)?;
    encoded(picture, to, notes)
}

fn decoded(
    bytes: &[u8],
    from: ImageFormat,
    limits: &Limits,
    notes: &mut Vec<String>,
) -> Result<DynamicImage, ConvertError> {
    let reader = || {
        let mut reader = ImageReader::with_format(Cursor::new(bytes), from);
        let mut allowed = image::Limits::default();
        // Up to 16 bytes a pixel, and as much again on the way.
        allowed.max_alloc = Some(limits.pixels.saturating_mul(16));
        reader.limits(allowed);
        reader
    };
    let (width, height) = reader().into_dimensions().map_err(refused)?;
    let pixels = u64::from(width) * u64::from(height);
    if pixels > limits.pixels {
        return Err(ConvertError::TooLarge {
            what: "the picture (pixels)",
            size: pixels,
            limit: limits.pixels,
            next: "ask for a smaller one",
        });
    }
    let mut decoder = reader().into_decoder().map_err(refused)?;
    let turned = decoder.orientation();
    let mut picture = DynamicImage::from_decoder(decoder).map_err(refused)?;
    if let Ok(orientation) = turned {
        picture.apply_orientation(orientation);
    }
    if from == ImageFormat::Gif && frames(bytes, limits) > 1 {
        notes.push("the picture moves; its first frame was taken".into());
    }
    Ok(picture)
}

/// 1, or 2 if there are more.
fn frames(bytes: &[u8], limits: &Limits) -> usize {
    use image::AnimationDecoder;
    let Ok(mut decoder) = image::codecs::gif::GifDecoder::new(Cursor::new(bytes)) else { return 1 };
    let mut allowed = image::Limits::default();
    allowed.max_alloc = Some(limits.pixels.saturating_mul(16));
    if decoder.set_limits(allowed).is_err() {
        return 1;
    }
    decoder.into_frames().take(2).filter(Result::is_ok).count()
}

fn encoded(
    picture: DynamicImage,
    to: ImageFormat,
    notes: &mut Vec<String>,
) -> Result<Vec<u8>, ConvertError> {
    let has_alpha = picture.color().has_alpha();
    let picture = match to {
        ImageFormat::Jpeg | ImageFormat::Pnm if has_alpha => {
            notes.push(format!("{to:?} has no transparency; it was laid on white"));
            on_white(&picture)
        }
        ImageFormat::Jpeg | ImageFormat::Pnm => DynamicImage::ImageRgb8(picture.into_rgb8()),
        ImageFormat::Ico if picture.width() > ICON || picture.height() > ICON => {
            notes.push(
                "an icon is at most 256 pixels wide and high; the picture was made smaller".into(),
            );
            let small = picture.resize(ICON, ICON, imageops::FilterType::Triangle);
            DynamicImage::ImageRgba8(small.into_rgba8())
        }
        // What these cannot hold: sixteen bits or floating point.
        ImageFormat::WebP
        | ImageFormat::Bmp
        | ImageFormat::Qoi
        | ImageFormat::Gif
        | ImageFormat::Ico => {
            if has_alpha {
                DynamicImage::ImageRgba8(picture.into_rgba8())
            } else {
                DynamicImage::ImageRgb8(picture.into_rgb8())
            }
        }
        _ => match picture {
            DynamicImage::ImageRgb32F(_) => DynamicImage::ImageRgb16(picture.into_rgb16()),
            DynamicImage::ImageRgba32F(_) => DynamicImage::ImageRgba16(picture.into_rgba16()),
            other => other,
        },
    };
    if to == ImageFormat::Gif {
        notes.push("GIF has 256 colours; they were chosen to fit".into());
    }
    let mut out = Cursor::new(Vec::new());
    picture.write_to(&mut out, to).map_err(refused)?;
    Ok(out.into_inner())
}

fn on_white(picture: &DynamicImage) -> DynamicImage {
    let (width, height) = picture.dimensions();
    let mut white =
        DynamicImage::ImageRgba8(image::RgbaImage::from_pixel(width, height, Rgba([255; 4])));
    imageops::overlay(&mut white, picture, 0, 0);
    DynamicImage::ImageRgb8(white.into_rgb8())
}

fn refused(error: ImageError) -> ConvertError {
    match error {
        ImageError::Limits(_) => ConvertError::malformed(
            "the picture needs more memory than is allowed; ask for a smaller one",
        ),
        ImageError::Unsupported(error) => {
            ConvertError::Malformed(format!("this kind of picture is not supported: {error}"))
        }
        other => ConvertError::Malformed(format!(
            "the picture could not be read: {other}; it is damaged, or another format"
        )),
    }
}
