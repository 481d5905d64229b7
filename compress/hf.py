"""Import this to let transformers read compressed folders: `import compress.hf`, then `from_pretrained` as ever."""

from compress.runtime.hf import register

register()
