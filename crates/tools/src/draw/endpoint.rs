//! Pictures from an OpenAI-compatible endpoint (`POST …/images/generations`).
//!
//! What comes is a picture in the answer itself, never an address to fetch, and is looked at before it is kept: its format by
//! its first bytes, its size by its header.

use std::io::Cursor;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use yushan_abi::{Picture, Senses, SensesError, Wish};

/// Bytes of an answer.
const ANSWER: u64 = 48 << 20;
/// Pixels of a picture.
const PIXELS: u64 = 64_000_000;
/// Characters that are shown of a refusal.
const REASON: usize = 500;

/// How an endpoint is reached.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointConfig {
    /// Up to `/v1`, as for other OpenAI-compatible servers.
    pub base_url: String,
    /// The model's name there.
    pub model: String,
    /// A key, sent to this endpoint alone.
    #[serde(default)]
    pub key: Option<String>,
    /// Seconds that a picture may take.
    #[serde(default = "patience")]
    pub timeout_seconds: u64,
    /// Whether `response_format` is sent: some models want it, and some refuse it since they have one form alone.
    #[serde(default = "yes")]
    pub sends_format: bool,
}

fn patience() -> u64 {
    180
}

fn yes() -> bool {
    true
}

/// An endpoint that draws.
pub struct Endpoint {
    config: EndpointConfig,
    agent: ureq::Agent,
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<Drawn>,
}

#[derive(Deserialize)]
struct Drawn {
    b64_json: Option<String>,
}

impl Endpoint {
    /// An endpoint; nothing is sent yet.
    ///
    /// # Errors
    /// Its address is none.
    pub fn new(config: EndpointConfig) -> Result<Endpoint, SensesError> {
        if !config.base_url.starts_with("http://") && !config.base_url.starts_with("https://") {
            let why = "the address of the image endpoint must begin with http:// or https://";
            return Err(SensesError::Failed(why.into()));
        }
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(config.timeout_seconds)))
            .max_redirects(0)
            .http_status_as_error(false)
            .build();
        Ok(Endpoint { config, agent: agent.into() })
    }

    /// Where wishes go: the host of the address.
    pub fn host(&self) -> &str {
        let rest = self.config.base_url.split("://").nth(1).unwrap_or_default();
        rest.split('/').next().unwrap_or_default()
    }

    fn asked(&self, wish: &Wish<'_>) -> Result<(u16, Vec<u8>), SensesError> {
        let failed = |error: ureq::Error| {
            SensesError::Failed(format!(
                "the image endpoint {} does not answer: {error}",
                self.host()
            ))
        };
        let mut body = json!({
            "model": self.config.model, "prompt": wish.prompt, "n": 1,
            "size": format!("{}x{}", wish.width, wish.height),
        });
        if self.config.sends_format {
            body["response_format"] = "b64_json".into();
        }
        let address = format!("{}/images/generations", self.config.base_url.trim_end_matches('/'));
        let mut request = self.agent.post(address).header("content-type", "application/json");
        if let Some(key) = &self.config.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let mut response = request.send(body.to_string()).map_err(failed)?;
        let status = response.status().as_u16();
        let bytes = response.body_mut().with_config().limit(ANSWER).read_to_vec();
        Ok((status, bytes.map_err(failed)?))
    }
}

impl Senses for Endpoint {
    fn draw(&self, wish: &Wish<'_>) -> Result<Picture, SensesError> {
        if wish.cancel.is_cancelled() {
            return Err(SensesError::Failed("cancelled".into()));
        }
        let (status, bytes) = self.asked(wish)?;
        if !(200..300).contains(&status) {
            let said: Option<Value> = serde_json::from_slice(&bytes).ok();
            let said = said.as_ref().and_then(|value| value["error"]["message"].as_str());
            let reason: String = match said {
                Some(text) => text.chars().take(REASON).collect(),
                None => format!("status {status}"),
            };
            return Err(match status {
                400..=499 => SensesError::Refused(reason),
                _ => SensesError::Failed(format!("the image endpoint failed: {reason}")),
            });
        }
        let answer: Answer = serde_json::from_slice(&bytes).map_err(|error| {
            SensesError::Failed(format!("the image endpoint's answer does not read: {error}"))
        })?;
        let encoded = answer.data.into_iter().next().and_then(|drawn| drawn.b64_json);
        let encoded = encoded.ok_or_else(|| {
            SensesError::Failed(
                "the image endpoint sent no picture in its answer (b64_json)".into(),
            )
        })?;
        let bytes = BASE64_STANDARD.decode(encoded.trim().as_bytes()).map_err(|error| {
            SensesError::Failed(format!("the image endpoint's picture is not base64: {error}"))
        })?;
        looked_at(bytes)
    }
}

fn looked_at(bytes: Vec<u8>) -> Result<Picture, SensesError> {
    let unknown = || {
        SensesError::Failed("what the image endpoint sent is no PNG, JPEG or WebP picture".into())
    };
    let format = image::guess_format(&bytes).map_err(|_| unknown())?;
    let media_type = match format {
        image::ImageFormat::Png => "image/png",
        image::ImageFormat::Jpeg => "image/jpeg",
        image::ImageFormat::WebP => "image/webp",
        _ => return Err(unknown()),
    };
    let reader = image::ImageReader::with_format(Cursor::new(&bytes), format);
    let (width, height) = reader.into_dimensions().map_err(|_| unknown())?;
    if u64::from(width) * u64::from(height) > PIXELS {
        return Err(SensesError::Failed(format!(
            "the image endpoint sent a picture of {width} by {height} pixels, which is too large"
        )));
    }
    Ok(Picture { bytes, media_type: media_type.into() })
}
