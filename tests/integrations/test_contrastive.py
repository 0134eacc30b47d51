"""A model whose loss of a row depends on the rows beside it is refused, as the pages say."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="needs pip install '.[transformers]'")

from transformers import CLIPConfig, CLIPModel, TrainingArguments

from data_agent.errors import InputError
from data_agent.integrations.transformers import SelectiveTrainer

pytestmark = pytest.mark.filterwarnings(
    r"ignore:.*'pin_memory' argument is set as true.*:UserWarning"
)

PAGE = Path(__file__).parents[2] / "docs" / "questions.md"


def pairs_of(rows):
    batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    return {**batch, "return_loss": True}


def test_clip_is_refused(tmp_path):
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    small |= {"num_attention_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
    text = {**small, "vocab_size": 9, "max_position_embeddings": 4}
    images = {**small, "image_size": 8, "patch_size": 4}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=images, projection_dim=8))
    ids, pixels = torch.tensor([1, 5, 2]), torch.rand(3, 8, 8)
    trainer = SelectiveTrainer(
        model=model,
        args=TrainingArguments(
            tmp_path, num_train_epochs=4, report_to=[], use_cpu=True, disable_tqdm=True
        ),
        train_dataset=[{"input_ids": ids, "pixel_values": pixels}] * 32,
        data_collator=pairs_of,
        keep_ratio=0.5,
    )
    with pytest.raises(InputError) as error:
        trainer.train()
    said = str(error.value).partition(", so each")[0]
    assert said == "the model's output has no tensor 'logits'"
    assert said in PAGE.read_text()
