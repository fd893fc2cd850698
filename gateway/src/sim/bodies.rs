//! Writes the result bodies: plausible answers of each endpoint, whose text names the request by its
//! custom_id and by the digest of its body.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::event::Accepted;
use super::ids;
use super::lines::Item;
use super::outcome;

/// One answer to be written, with what all of its forms need.
pub(super) struct Body<'a> {
    pub batch: &'a Accepted,
    pub item: &'a Item,
    /// Unique in the batch and the same at every download.
    pub tag: &'a str,
}

impl Body<'_> {
    fn text(&self) -> Value {
        Value::String(format!("simulated answer to {} {}", self.item.custom_id, ids::hex(&self.item.sha[..8])))
    }

    fn model(&self) -> Value {
        Value::String(self.item.params.model.clone())
    }

    fn created(&self) -> u64 {
        (self.batch.at_ms + self.batch.latency_ms) / 1_000
    }

    /// The response body for the batch's OpenAI endpoint.
    pub fn openai(&self, out: &mut Vec<u8>) -> io::Result<()> {
        match self.batch.endpoint.as_str() {
            "/v1/chat/completions" => self.chat(out),
            "/v1/responses" => self.response(out),
            "/v1/embeddings" => self.embedding(out),
            "/v1/completions" => self.completion(out),
            other => write!(out, "{}", self.media(other)),
        }
    }

    fn chat(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let (tokens, cut) = outcome::answer_tokens(self.item);
        let prompt = self.item.params.prompt_tokens;
        write!(
            out,
            r#"{{"id":"chatcmpl-{tag}","object":"chat.completion","created":{created},"model":{model},"choices":[{{"index":0,"message":{{"role":"assistant","content":{text},"refusal":null,"annotations":[]}},"logprobs":null,"finish_reason":"{finish}"}}],"usage":{{"prompt_tokens":{prompt},"completion_tokens":{tokens},"total_tokens":{total},"prompt_tokens_details":{{"cached_tokens":0,"audio_tokens":0}},"completion_tokens_details":{{"reasoning_tokens":0,"audio_tokens":0}}}},"service_tier":"default","system_fingerprint":"fp_sim"}}"#,
            tag = self.tag,
            created = self.created(),
            model = self.model(),
            text = self.text(),
            finish = if cut { "length" } else { "stop" },
            total = prompt + tokens,
        )
    }

    fn response(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let (tokens, cut) = outcome::answer_tokens(self.item);
        let prompt = self.item.params.prompt_tokens;
        let (status, details) = match cut {
            true => ("incomplete", r#"{"reason":"max_output_tokens"}"#),
            false => ("completed", "null"),
        };
        write!(
            out,
            r#"{{"id":"resp_{tag}","object":"response","created_at":{created},"status":"{status}","error":null,"incomplete_details":{details},"instructions":null,"metadata":{{}},"model":{model},"output":[{{"id":"msg_{tag}","type":"message","status":"{status}","role":"assistant","content":[{{"type":"output_text","text":{text},"annotations":[],"logprobs":[]}}]}}],"parallel_tool_calls":true,"temperature":1.0,"tool_choice":"auto","tools":[],"top_p":1.0,"usage":{{"input_tokens":{prompt},"input_tokens_details":{{"cached_tokens":0,"cache_write_tokens":0}},"output_tokens":{tokens},"output_tokens_details":{{"reasoning_tokens":0}},"total_tokens":{total}}}}}"#,
            tag = self.tag,
            created = self.created(),
            model = self.model(),
            text = self.text(),
            total = prompt + tokens,
        )
    }

    fn completion(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let (tokens, cut) = outcome::answer_tokens(self.item);
        let prompt = self.item.params.prompt_tokens;
        write!(
            out,
            r#"{{"id":"cmpl-{tag}","object":"text_completion","created":{created},"model":{model},"choices":[{{"index":0,"text":{text},"logprobs":null,"finish_reason":"{finish}"}}],"usage":{{"prompt_tokens":{prompt},"completion_tokens":{tokens},"total_tokens":{total}}}}}"#,
            tag = self.tag,
            created = self.created(),
            model = self.model(),
            text = self.text(),
            finish = if cut { "length" } else { "stop" },
            total = prompt + tokens,
        )
    }

    /// A vector cannot hold text: its numbers come from the digest, one vector for each input.
    fn embedding(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let vector: Vec<f64> = self.item.sha[..8].iter().map(|byte| f64::from(*byte) / 255.0).collect();
        let vector = json!(vector);
        out.extend_from_slice(br#"{"object":"list","data":["#);
        for index in 0..self.item.params.inputs.max(1) {
            let comma = if index == 0 { "" } else { "," };
            write!(out, r#"{comma}{{"object":"embedding","index":{index},"embedding":{vector}}}"#)?;
        }
        let prompt = self.item.params.prompt_tokens;
        write!(out, r#"],"model":{},"usage":{{"prompt_tokens":{prompt},"total_tokens":{prompt}}}}}"#, self.model())
    }

    /// The endpoints that answer with something else than text.
    fn media(&self, endpoint: &str) -> Value {
        let (prompt, tokens) = (self.item.params.prompt_tokens, outcome::answer_tokens(self.item).0);
        match endpoint {
            "/v1/moderations" => json!({
                "id": format!("modr-{}", self.tag), "model": self.model(),
                "results": [{"flagged": false, "categories": {}, "category_scores": {}}],
            }),
            "/v1/videos" => json!({
                "id": format!("video_{}", self.tag), "object": "video", "status": "completed",
                "progress": 100, "model": self.model(), "created_at": self.created(), "prompt": self.text(),
            }),
            _ => json!({
                "created": self.created(),
                "data": [{"url": format!("https://images.invalid/{}.png", self.tag), "revised_prompt": self.text()}],
                "usage": {"input_tokens": prompt, "output_tokens": tokens, "total_tokens": prompt + tokens},
            }),
        }
    }

    /// The message of an Anthropic success.
    pub fn anthropic(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let (tokens, cut) = outcome::answer_tokens(self.item);
        write!(
            out,
            r#"{{"id":"msg_{tag}","type":"message","role":"assistant","model":{model},"content":[{{"type":"text","text":{text}}}],"stop_reason":"{stop}","stop_sequence":null,"usage":{{"input_tokens":{prompt},"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":{tokens},"service_tier":"batch"}}}}"#,
            tag = self.tag,
            model = self.model(),
            text = self.text(),
            stop = if cut { "max_tokens" } else { "end_turn" },
            prompt = self.item.params.prompt_tokens,
        )
    }
}
