//! Drawings as SVG, from a description in JSON: shapes, texts, groups and charts.
//!
//! The key decision: a model describes what is to be seen in a small closed language, and every number, colour and text is
//! checked before it goes into the drawing. So the same description gives the same bytes on every machine, nothing in it can
//! load or run, and no program that a model wrote is needed for a chart. Nothing is rasterized: that would need a font of
//! our own and a renderer, and whoever looks at the picture has both.

mod chart;
pub mod driver;
pub mod endpoint;
pub mod image;
mod scene;
#[cfg(test)]
mod tests;

pub use scene::DrawError;

/// Draws a description.
///
/// # Errors
/// What is wrong with it, and where.
pub fn draw(scene: &serde_json::Value) -> Result<String, DrawError> {
    scene::Scene::read(scene)?.svg()
}
