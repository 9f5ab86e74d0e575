"""Prometheus' own parser, over /metrics."""

import os
import unittest
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

ADDRESS = os.environ["YUSHAN_ADDRESS"]


class Prometheus(unittest.TestCase):
    def test_metrics(self):
        with urllib.request.urlopen(f"{ADDRESS}/metrics") as reply:
            self.assertTrue(reply.headers["content-type"].startswith("text/plain; version=0.0.4"))
            text = reply.read().decode()
        families = {family.name: family for family in text_string_to_metric_families(text)}
        for name, kind in [
            ("prompt_tokens", "counter"),
            ("cached_tokens", "counter"),
            ("tokens_predicted", "counter"),
            ("prompt_seconds", "counter"),
            ("tokens_predicted_seconds", "counter"),
            ("requests_processing", "gauge"),
            ("requests_deferred", "gauge"),
            ("time_to_first_token_seconds", "histogram"),
            ("inter_token_latency_seconds", "histogram"),
        ]:
            family = families[f"yushan:{name}"]
            self.assertEqual(family.type, kind, name)
            self.assertTrue(family.documentation and family.samples, name)
        for family in families.values():
            if family.type == "histogram":
                buckets = [s for s in family.samples if s.name.endswith("_bucket")]
                counts = [sample.value for sample in buckets]
                self.assertEqual(counts, sorted(counts))
                self.assertEqual(buckets[-1].labels["le"], "+Inf")
                total = [s.value for s in family.samples if s.name.endswith("_count")]
                self.assertEqual(total, counts[-1:])
