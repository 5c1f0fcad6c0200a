"""Building blocks, one file each, with equation and citation."""

from typing import TYPE_CHECKING

import objecthood.nn.backbones  # these two register how frozen parts are restored
import objecthood.nn.vit_backbones  # noqa: F401
from objecthood.nn.adaslot import AdaSlot
from objecthood.nn.attention_bias import SpatialBias
from objecthood.nn.background_merge import merge_background
from objecthood.nn.decoders import PatchDecoder, SpatialBroadcastDecoder
from objecthood.nn.dynamics import ResidualPredictor, TransformerPredictor
from objecthood.nn.encoders import ConvEncoder
from objecthood.nn.frozen import Frozen
from objecthood.nn.frozen_features import Backbone
from objecthood.nn.grouping import SLOT_MODULES, Grouping, SlotModuleOptions
from objecthood.nn.initial_slots import ConditionedSlots, GaussianSlots, LearnedSlots
from objecthood.nn.invariant_slot_attention import InvariantSlotAttention
from objecthood.nn.k_means import KMeans
from objecthood.nn.matching import assign
from objecthood.nn.mesh import MESH
from objecthood.nn.metaslot import MetaSlot
from objecthood.nn.multi_head_slot_attention import MultiHeadSlotAttention
from objecthood.nn.positions import PositionEmbedding
from objecthood.nn.slot_attention import SlotAttention
from objecthood.nn.slot_mixture import SlotMixture
from objecthood.nn.slot_mlp import SlotMLP
from objecthood.nn.slot_module import SlotAttentionOutput, SlotModule
from objecthood.nn.soft_kmeans import SoftKMeans
from objecthood.runtime import renamed

__all__ = [
    "MESH",
    "SLOT_MODULES",
    "AdaSlot",
    "Backbone",
    "ConditionedSlots",
    "ConvEncoder",
    "Frozen",
    "GaussianSlots",
    "Grouping",
    "InvariantSlotAttention",
    "KMeans",
    "LearnedSlots",
    "MetaSlot",
    "MultiHeadSlotAttention",
    "PatchDecoder",
    "PositionEmbedding",
    "ResidualPredictor",
    "SlotAttention",
    "SlotAttentionOutput",
    "SlotMLP",
    "SlotMixture",
    "SlotModule",
    "SlotModuleOptions",
    "SoftKMeans",
    "SpatialBias",
    "SpatialBroadcastDecoder",
    "TransformerPredictor",
    "assign",
    "merge_background",
]


if not TYPE_CHECKING:
    __getattr__ = renamed.attributes(__name__)
