"""The main job as a stranger runs it, and what its report must hold."""

import json
from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_demo_shows_that_the_method_learns(tmp_path):
  command = [sys.executable, '-m', 'uniemox_jax.demo', f'--workdir={tmp_path}']
  subprocess.run(command, cwd=ROOT, check=True, timeout=1800)
  report = json.loads((tmp_path / 'report.json').read_text())
  accuracy = report['accuracy']
  assert 0.20 < accuracy['scratch'] < 0.80
  assert accuracy['uniemox'] >= accuracy['scratch'] + 0.10
  assert report['test_examples'] == 480
  for name in ('total', 'reconstruction', 'similarity'):
    assert report['losses'][name]['last'] < report['losses'][name]['first'], name
  assert 'contrastive' in report['losses']
  assert all(oracle['all'] >= 0.95 for oracle in report['oracle'].values())
  assert all(max(oracle['scene_only'], oracle['figure_only']) <= 0.65 for oracle in report['oracle'].values())
  assert (tmp_path / 'report.html').stat().st_size > 50_000
  again = subprocess.run(command, cwd=ROOT, check=True, timeout=600, capture_output=True, text=True)
  assert again.stdout.count('done before') == len(report['seconds'])
