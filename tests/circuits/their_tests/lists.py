"""Which files of transformer-lens' tests are run, and why some of their tests do not hold of a model of ours.

A test is called by its class or file and its name; an entry that ends in ``::`` is all tests of a class or file.
"""

from __future__ import annotations

FILES_3 = (
    "acceptance/test_activation_cache.py",
    "acceptance/test_hook_tokens.py",
    "integration/test_cache_hook_names.py",
    "integration/test_cache_pos_slice.py",
    "integration/test_hooks.py",
    "integration/test_kv_cache.py",
    "unit/test_direct_path_patching.py",
    "unit/test_hook_introspection.py",
    "unit/test_hook_points.py",
    "unit/test_hooked_root_module.py",
    "unit/test_patching.py",
)
FAIL_3 = {
    "token numbers have no hook point: give other tokens": ("test_hook_tokens::test_patch_tokens",),
    "the points of a SoLU model without a stream, one by one": ("test_cache_hook_names::test_cache_hook_names",),
    "a point that does not fire is refused by a ValueError with what to do, and theirs is an AssertionError": (
        "test_hooks::test_conditional_hooks",
    ),
    "padding is given by attention_mask, and not told from tokens: forward has no padding_side": (
        "test_kv_cache::test_multi_token_batch",
    ),
    "a cache here cannot be frozen; run what is to be seen twice with a copy of it (copy.deepcopy)": (
        "test_kv_cache::test_freeze_cache",
        "test_kv_cache::test_kv_cache_and_start_at_layer",
    ),
    "it is of transformer-lens itself, whose 4.x does otherwise than 3.x": (
        "TestCheckFoldLn::test_folded_model_no_warning",
        "TestCheckFoldLn::test_unfolded_model_warns",
        "TestCheckFoldLn::test_no_crash_on_missing_attribute",
        "TestHookPointHasHooks::test_invalid_direction_raises_error",
        "test_hooked_root_module::test_legacy_hook_points_import_still_works",
    ),
}
"""By reason, of the 3.x line."""

FILES_4 = (
    "acceptance/model_bridge/compatibility/test_activation_cache.py",
    "acceptance/model_bridge/compatibility/test_backward_hooks.py",
    "acceptance/model_bridge/compatibility/test_hook_completeness.py",
    "acceptance/model_bridge/compatibility/test_hook_duplication.py",
    "acceptance/model_bridge/compatibility/test_legacy_api_coverage.py",
    "acceptance/model_bridge/compatibility/test_run_with_cache.py",
    "acceptance/model_bridge/test_run_with_cache_batch.py",
    "acceptance/test_activation_cache.py",
    "integration/model_bridge/compatibility/test_bridge_cache_behavior.py",
    "integration/model_bridge/compatibility/test_bridge_hook_behavior.py",
    "integration/model_bridge/test_bridge_caching_hooks.py",
    "integration/model_bridge/test_bridge_hook_scope.py",
    "integration/model_bridge/test_bridge_run_with_cache_device.py",
    "integration/model_bridge/test_bridge_run_with_cache_incl_bwd.py",
    "integration/model_bridge/test_bridge_run_with_cache_pos_slice.py",
    "integration/model_bridge/test_bridge_start_at_layer.py",
    "integration/model_bridge/test_bridge_stop_at_layer.py",
    "integration/test_hook_shape_compatibility.py",
    "unit/model_bridge/compatibility/test_split_qkv.py",
    "unit/model_bridge/compatibility/test_use_attn_result.py",
    "unit/model_bridge/test_bridge_cross_run_mlp_in_patching.py",
    "unit/model_bridge/test_bridge_cross_run_qkv_patching.py",
    "unit/model_bridge/test_caching_hooks_aliases.py",
    "unit/model_bridge/test_caching_hooks_pos_slice_batch_dim.py",
    "unit/model_bridge/test_caching_remove_batch_dim.py",
    "unit/model_bridge/test_gated_hooks.py",
    "unit/model_bridge/test_hook_set_enforcement.py",
    "unit/model_bridge/test_reset_hooks_registry.py",
    "unit/model_bridge/test_run_with_hooks_remove_batch_dim.py",
    "unit/test_activation_cache_batch_dim.py",
    "unit/test_direct_path_patching.py",
    "unit/test_hook_introspection.py",
    "unit/test_hook_points.py",
    "unit/test_patching.py",
)
FAIL_4 = {
    "it compares with numbers of GPT-2's own weights, which are on a hub": (
        "TestHookCompleteness::test_all_hooks_exist",
        "TestHookCompleteness::test_all_hooks_fire",
        "TestCacheEqualityWithHookedTransformer::test_cache_values_match",
        "TestHookAblationEquivalence::test_ablation_effect_matches_reference",
        "TestHookActivationShapes::test_shapes_match_reference",
        "TestHookRegistry::test_key_hooks_present",
        "test_bridge_run_with_cache_incl_bwd::test_incl_bwd_gradients_match_the_golden_snapshot",
        "test_bridge_cross_run_qkv_patching::test_olmo2_post_norm_split_qkv_cross_run_patching",
    ),
    "theirs is skipped, too, whatever the model": (
        "test_hook_shape_compatibility::test_transformer_bridge_hook_shapes[EleutherAI/pythia-70m]",
    ),
    "it reaches into a bridge's modules, which wrap those of transformers; ours are other modules": (
        "test_hook_duplication::",
        "test_bridge_stop_at_layer::test_manual_hooks_stop_at_layer_compat_with_processing",
        "TestSplitQkvFlags::test_destination_without_fork_refused",
        "test_split_qkv::test_split_qkv_applicability_raises_on_unsupported",
        "test_split_qkv::test_block_level_hook_alias_parity",
        "test_use_attn_result::test_hook_result_shape_and_sum_equals_hook_out",
        "test_use_attn_result::test_use_attn_result_applicability_raises_on_unsupported",
        "test_caching_remove_batch_dim::test_hook_path_leaves_a_flattened_hook_alone_at_batch_size_one",
        "test_caching_remove_batch_dim::test_hook_path_leaves_a_tensor_that_already_lost_its_batch_dimension_alone",
    ),
    "it is of points that a bridge has beside HookedTransformer's, as embed.hook_in and unembed.hook_out": (
        "TestHookRegistry::test_bridge_has_substantial_hooks",
        "test_bridge_run_with_cache_pos_slice::test_pos_slice_on_two_dimensional_activations_keeps_batch",
        "test_bridge_start_at_layer::test_upstream_hooks_absent_downstream_present",
        "test_caching_hooks_pos_slice_batch_dim::test_remove_batch_dim_with_pos_slice_matches_run_with_cache",
        "test_caching_hooks_pos_slice_batch_dim::test_remove_batch_dim_with_int_pos_slice_shapes",
        "test_caching_hooks_pos_slice_batch_dim::test_pos_slice_without_remove_batch_dim_is_unchanged",
        "test_caching_remove_batch_dim::test_hook_path_keeps_every_example_of_a_larger_batch",
        "test_caching_remove_batch_dim::test_hook_path_drops_a_batch_of_one",
        "test_caching_remove_batch_dim::test_run_with_cache_drops_a_batch_of_one_as_a_plain_dict",
    ),
    "what is cached here has one name, HookedTransformer's; a cache is asked by a bridge's name too, a plain "
    "dictionary is not": (
        "test_bridge_caching_hooks::test_get_caching_hooks_matches_run_with_cache",
        "test_bridge_caching_hooks::test_add_caching_hooks_persists_until_reset",
        "test_caching_hooks_aliases::",
        "test_caching_hooks_pos_slice_batch_dim::test_remove_batch_dim_with_pos_slice_trims_gradients_on_the_same_axis",
        "test_caching_remove_batch_dim::test_add_caching_hooks_keeps_every_example_of_a_larger_batch",
        "test_caching_remove_batch_dim::test_run_with_cache_takes_the_batch_size_from_its_input[False]",
    ),
    "it is of an architecture, or a part of one, that bridges know and the shim makes no model of": (
        "test_caching_hooks_pos_slice_batch_dim::test_post_reshape_qk_norm_hooks_slice_position",
        "test_caching_hooks_pos_slice_batch_dim::test_mla_head_major_hooks_slice_position",
        "test_caching_hooks_pos_slice_batch_dim::test_t5gemma2_cross_pattern_slices_query_position",
        "TestSplitQkvFlags::test_model_without_fork_refused_before_any_forward",
        "TestUnsupportedArchitectures::test_transformed_attention_write_refused_before_any_forward",
        "TestUnsupportedArchitectures::test_only_source_blocks_need_an_additive_write",
        "test_gated_hooks::test_alias_override_onto_firing_point_is_not_gated",
    ),
    "hooks that could never fire are refused by a ValueError, of which theirs only warns": (
        "test_gated_hooks::test_run_with_cache_warns_on_fully_gated_names_filter",
        "test_gated_hooks::test_add_hook_callable_filter_warns_and_skips_gated_points",
        "test_gated_hooks::test_run_with_hooks_callable_filter_warns_and_attaches_nothing",
        "test_gated_hooks::test_hooks_ctx_callable_filter_warns_and_attaches_nothing",
        "test_gated_hooks::test_add_caching_hooks_warns_for_gated_names",
    ),
    "remove_batch_dim of run_with_hooks is a bridge's; transformer-lens' HookedRootModule has none": (
        "test_run_with_hooks_remove_batch_dim::",
    ),
    "it is of transformer-lens' own HookPoint or HookedRootModule, which do otherwise than a bridge": (
        "test_bridge_caching_hooks::test_cache_all_and_cache_some_are_deprecated",
        "TestHookPointHasHooks::test_invalid_direction_raises_error",
        "test_gated_hooks::test_check_hooks_to_add_is_the_gate",
    ),
    "it finds the hooks that the test before it left, as that failed": (
        "test_bridge_caching_hooks::test_incl_bwd_leaves_no_hooks_attached",
    ),
    "it is refused here too, in other words than the test looks for": (
        "test_bridge_start_at_layer::test_token_input_with_start_at_layer_raises",
    ),
    "n_layers is the end, from which the final norm and the unembedding are run": (
        "test_bridge_start_at_layer::test_out_of_range_start_at_layer_raises",
    ),
    "token numbers without a batch axis are refused: give tokens[None]": (
        "TestRunWithCacheCompatibility::test_run_with_cache_accepts_1d_tensor",
    ),
    "it is of what an import of transformer-lens binds": (
        "test_direct_path_patching::test_old_module_star_import_binds_the_moved_names_and_warns",
    ),
}
"""By reason, of the 4.x line."""
FAIL_4_ON_A_STREAM = {
    "later layers read earlier values too: a run from the residual stream alone is refused, and asks for outgoing": (
        "test_bridge_start_at_layer::test_negative_start_at_layer",
        "test_bridge_start_at_layer::test_resume_matches_full_run_logits_and_downstream_cache",
        "test_bridge_start_at_layer::test_run_with_hooks_skips_sub_start_layers",
        "test_bridge_start_at_layer::test_start_and_stop_bound_a_subrange",
        "test_bridge_start_at_layer::test_state_cleaned_up_after_start_at_layer",
    ),
}
"""Those that hold of a model without a stream, and not of one with it."""
