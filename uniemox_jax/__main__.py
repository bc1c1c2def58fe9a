"""The command `uniemox`: `uniemox VERB ...` is `python -m uniemox_jax.VERB ...`, or of data_pipelines.

Only the chosen verb is imported: the list of verbs and the completion of a shell must not wait for jax.
"""

import ast
import difflib
from pathlib import Path
import runpy
import sys

from uniemox_jax import __version__

VERBS = {
    'demo': ('uniemox_jax.demo', 'the whole method at a small size, from drawn data to a report'),
    'synthetic': ('data_pipelines.synthetic', 'draw small datasets in the real layouts'),
    'person_boxes': ('data_pipelines.person_boxes', 'find persons in images, and write a file of boxes'),
    'build': ('data_pipelines.build', 'turn the raw folder of a dataset into checked records'),
    'annotate': ('data_pipelines.annotate', 'label images with several people on a local page'),
    'preview': ('data_pipelines.preview', 'draw a contact sheet of what the model sees'),
    'duplicates': ('data_pipelines.duplicates', 'find resized, re-encoded and mirrored copies of images'),
    'report': ('data_pipelines.report', 'write a page about a data set, and what is wrong with it'),
    'train_clip': ('uniemox_jax.train_clip', 'train or adapt the CLIP teacher on captions'),
    'embed': ('uniemox_jax.embed', 'compute what the teacher sees of each view, before pretraining'),
    'pretrain': ('uniemox_jax.pretrain', 'pretrain UniEmoX under a frozen CLIP teacher'),
    'finetune': ('uniemox_jax.finetune', 'fine-tune a classifier or other emotion tasks'),
    'evaluate': ('uniemox_jax.evaluate', 'measure a fine-tuned model on a split'),
    'probe': ('uniemox_jax.probe', 'measure frozen features by a linear probe or nearest neighbours'),
    'zero_shot': ('uniemox_jax.zero_shot', 'measure a CLIP by prompts alone'),
    'compare': ('uniemox_jax.compare', 'compare initialisations over datasets, protocols and seeds'),
    'ablate': ('uniemox_jax.ablate', 'change one part at a time, and tabulate the effect'),
    'predict': ('uniemox_jax.predict', 'predict emotions of any images or videos, as a table'),
    'app': ('uniemox_jax.app', 'try a model, or two, on images of your own on a local page'),
    'look': ('uniemox_jax.look', 'draw attention, embeddings, mistakes and reconstructions of a model'),
    'plan': ('uniemox_jax.plan', 'check whether a config fits TPUs or GPUs, and how long a step takes'),
    'import_torch': ('uniemox_jax.import_torch', 'read weights of other libraries'),
    'export_torch': ('uniemox_jax.export_torch', 'write weights for PyTorch, timm, transformers, TensorFlow or ONNX'),
}  # fmt: skip
INTERNAL_FLAGS = {'--cell=', '--lifeline='}
"""The flags that compare and ablate give the processes that they start."""

BASH = '''_uniemox() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} words=
  if ((COMP_CWORD == 1)); then
    words='{verbs}'
  elif [[ $word == -* ]]; then
    case ${{COMP_WORDS[1]}} in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
  if [[ ${{COMPREPLY-}} == *= ]]; then compopt -o nospace; fi
}}
complete -o default -F _uniemox uniemox'''

ZSH = '''#compdef uniemox
_uniemox() {{
  local -a verbs=({verbs})
  if ((CURRENT == 2)); then _describe verb verbs; return; fi
  case $words[2] in
{cases}
  esac
}}
compdef _uniemox uniemox'''


def flags_of(module: str, function: str = '') -> set[str]:
  """Finds the flags that a verb defines, such as '--config=', in its source: an import would take seconds.

  Args:
    module: a module, or a package with a `__main__`.
    function: the function of the module that alone is searched.
  """
  path = Path(__file__).parents[1] / module.replace('.', '/')
  path = path / '__main__.py' if path.is_dir() else path.with_suffix('.py')
  tree = ast.parse(path.read_text(encoding='utf-8'))
  nodes = list(ast.walk(tree))
  imported = {
      name.name: f'{node.module}.{name.name}' for node in nodes if isinstance(node, ast.ImportFrom)
      for name in node.names}
  functions = {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}
  found: set[str] = set()
  for node in ast.walk(functions.get(function, tree)):
    if isinstance(node, ast.Call):
      owner, _, name = ast.unparse(node.func).rpartition('.')
      if name.startswith('DEFINE_') or name == 'define_path':
        if not isinstance(node.args[0], ast.Constant):
          continue
        found.add(f'--{ast.literal_eval(node.args[0])}' + ('' if name == 'DEFINE_bool' else '='))
      elif name.startswith('define_') and name != function:
        found |= flags_of(imported.get(owner) or imported.get(name, '').rpartition('.')[0] or module, name)
  return found - INTERNAL_FLAGS


def completion(shell: str) -> str:
  """Writes a script for bash, zsh or fish that completes verbs, their flags, and files."""
  flags = {verb: sorted(flags_of(module)) for verb, (module, _) in VERBS.items()}
  if shell == 'bash':
    cases = '\n'.join(f"      {verb}) words='{' '.join(names)}' ;;" for verb, names in flags.items())
    return BASH.format(verbs=' '.join([*VERBS, 'completion']), cases=cases)
  if shell == 'zsh':
    cases = '\n'.join(
        f"    {verb}) _arguments {' '.join(f'{name}:file:_files' if name[-1] == '=' else name for name in names)} "
        "'*:file:_files' ;;" for verb, names in flags.items())
    return ZSH.format(verbs=' '.join(f"'{verb}:{line}'" for verb, (_, line) in VERBS.items()), cases=cases)
  lines = [f"complete -c uniemox -n __fish_use_subcommand -f -a {verb} -d '{VERBS[verb][1]}'" for verb in VERBS]
  for verb, names in flags.items():
    for name in names:
      value = ' -r' if name[-1] == '=' else ''
      lines.append(f"complete -c uniemox -n '__fish_seen_subcommand_from {verb}' -l {name.strip('-=')}{value}")
  return '\n'.join(lines)


def help_text() -> str:
  """Lists every verb with one line."""
  verbs = [f'  {verb:<14}{line}' for verb, (_, line) in VERBS.items()]
  return '\n'.join([
      'usage: uniemox VERB [--flag=value ...]    (uniemox VERB --help lists the flags of a verb)', '', *verbs, '',
      '  completion    print a completion script: bash, zsh or fish', '  --version     print the version'])


def main() -> None:
  """Runs a verb as `python -m` does, or answers for the command itself; exit code 2 if there is no such verb."""
  verb, *arguments = sys.argv[1:] or ['--help']
  if verb in VERBS:
    del sys.argv[0]
    runpy.run_module(VERBS[verb][0], run_name='__main__', alter_sys=True)
  elif verb in ('--help', '-h', 'help'):
    print(help_text())
  elif verb == '--version':
    print(__version__)
  elif verb != 'completion':
    near = difflib.get_close_matches(verb, [*VERBS, 'completion'], 1, 0.5)
    hint = f'did you mean {near[0]}? ' if near else ''
    print(f"error: '{verb}' is no verb: {hint}(uniemox --help lists them)", file=sys.stderr)
    sys.exit(2)
  elif arguments in (['bash'], ['zsh'], ['fish']):
    print(completion(*arguments))
  else:
    print('error: completion of which shell: uniemox completion bash, zsh or fish', file=sys.stderr)
    sys.exit(2)


if __name__ == '__main__':
  main()
