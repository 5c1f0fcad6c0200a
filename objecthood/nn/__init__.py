"""Ideas: one file each, with its equation and citation. Imports torch (and SciPy for assignment) only."""

import objecthood.nn.backbones  # these two say how frozen parts are restored
import objecthood.nn.vit_backbones  # noqa: F401
from objecthood.nn.attention_bias import CompactPrior
from objecthood.nn.background_merge import unite_grounds
from objecthood.nn.decoders import PatchDecoder, SpatialBroadcastDecoder
from objecthood.nn.dynamics import ResidualPredictor, TransformerPredictor
from objecthood.nn.encoders import ConvEncoder
from objecthood.nn.frozen import Frozen
from objecthood.nn.frozen_features import Backbone
from objecthood.nn.grouping import SLOT_MODULES, Grouping, SlotModuleOptions
from objecthood.nn.initial_slots import ConditionedSlots, GaussianSlots, LearnedSlots
from objecthood.nn.matching import assign
from objecthood.nn.positions import PositionEmbedding
from objecthood.nn.slot_attention import SlotAttention
from objecthood.nn.slot_mlp import SlotMLP
from objecthood.nn.slot_module import SlotAttentionOutput, SlotModule
from objecthood.nn.soft_kmeans import SoftKMeans

__all__ = [
    "SLOT_MODULES",
    "Backbone",
    "CompactPrior",
    "ConditionedSlots",
    "ConvEncoder",
    "Frozen",
    "GaussianSlots",
    "Grouping",
    "LearnedSlots",
    "PatchDecoder",
    "PositionEmbedding",
    "ResidualPredictor",
    "SlotAttention",
    "SlotAttentionOutput",
    "SlotMLP",
    "SlotModule",
    "SlotModuleOptions",
    "SoftKMeans",
    "SpatialBroadcastDecoder",
    "TransformerPredictor",
    "assign",
    "unite_grounds",
]
