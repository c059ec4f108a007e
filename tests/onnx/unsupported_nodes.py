"""ONNX's own tests that ``from_onnx`` doesn't pass, by reason; of the version of onnx that the dev extra names."""

UNSUPPORTED: dict[str, str] = {
    "PyTorch has no such values, or we read none: strings, sequences, numbers of 2, 4 and 8 bits": """
        ai_onnx_ml_label_encoder_string_int ai_onnx_ml_label_encoder_string_int_no_default
        ai_onnx_ml_label_encoder_tensor_mapping ai_onnx_ml_label_encoder_tensor_value_only_mapping
        cast_BFLOAT16_to_FLOAT cast_DOUBLE_to_FLOAT cast_DOUBLE_to_FLOAT16 cast_FLOAT16_to_DOUBLE
        cast_FLOAT16_to_FLOAT cast_FLOAT16_to_FLOAT4E2M1 cast_FLOAT16_to_FLOAT8E4M3FN
        cast_FLOAT16_to_FLOAT8E4M3FNUZ cast_FLOAT16_to_FLOAT8E5M2 cast_FLOAT16_to_FLOAT8E5M2FNUZ
        cast_FLOAT16_to_INT2 cast_FLOAT16_to_INT4 cast_FLOAT16_to_UINT2 cast_FLOAT16_to_UINT4
        cast_FLOAT4E2M1_to_FLOAT cast_FLOAT4E2M1_to_FLOAT16 cast_FLOAT8E4M3FNUZ_to_FLOAT
        cast_FLOAT8E4M3FNUZ_to_FLOAT16 cast_FLOAT8E4M3FN_to_FLOAT cast_FLOAT8E4M3FN_to_FLOAT16
        cast_FLOAT8E5M2FNUZ_to_FLOAT cast_FLOAT8E5M2FNUZ_to_FLOAT16 cast_FLOAT8E5M2_to_FLOAT
        cast_FLOAT8E5M2_to_FLOAT16 cast_FLOAT_to_BFLOAT16 cast_FLOAT_to_DOUBLE cast_FLOAT_to_FLOAT16
        cast_FLOAT_to_FLOAT4E2M1 cast_FLOAT_to_FLOAT8E4M3FN cast_FLOAT_to_FLOAT8E4M3FNUZ
        cast_FLOAT_to_FLOAT8E5M2 cast_FLOAT_to_FLOAT8E5M2FNUZ cast_FLOAT_to_INT2 cast_FLOAT_to_INT4
        cast_FLOAT_to_UINT2 cast_FLOAT_to_UINT4 cast_INT2_to_FLOAT cast_INT2_to_FLOAT16 cast_INT2_to_INT8
        cast_INT4_to_FLOAT cast_INT4_to_FLOAT16 cast_INT4_to_INT8 cast_UINT2_to_FLOAT cast_UINT2_to_FLOAT16
        cast_UINT2_to_UINT8 cast_UINT4_to_FLOAT cast_UINT4_to_FLOAT16 cast_UINT4_to_UINT8
        cast_e8m0_FLOAT16_to_FLOAT8E8M0 cast_e8m0_FLOAT8E8M0_to_FLOAT cast_e8m0_FLOAT8E8M0_to_FLOAT16
        cast_e8m0_FLOAT_to_FLOAT8E8M0 cast_no_saturate_FLOAT16_to_FLOAT8E4M3FN
        cast_no_saturate_FLOAT16_to_FLOAT8E4M3FNUZ cast_no_saturate_FLOAT16_to_FLOAT8E5M2
        cast_no_saturate_FLOAT16_to_FLOAT8E5M2FNUZ cast_no_saturate_FLOAT_to_FLOAT8E4M3FN
        cast_no_saturate_FLOAT_to_FLOAT8E4M3FNUZ cast_no_saturate_FLOAT_to_FLOAT8E5M2
        cast_no_saturate_FLOAT_to_FLOAT8E5M2FNUZ castlike_BFLOAT16_to_FLOAT
        castlike_BFLOAT16_to_FLOAT_expanded castlike_DOUBLE_to_FLOAT castlike_DOUBLE_to_FLOAT16
        castlike_DOUBLE_to_FLOAT16_expanded castlike_DOUBLE_to_FLOAT_expanded castlike_FLOAT16_to_DOUBLE
        castlike_FLOAT16_to_DOUBLE_expanded castlike_FLOAT16_to_FLOAT castlike_FLOAT16_to_FLOAT4E2M1
        castlike_FLOAT16_to_FLOAT4E2M1_expanded castlike_FLOAT16_to_FLOAT8E4M3FN
        castlike_FLOAT16_to_FLOAT8E4M3FNUZ castlike_FLOAT16_to_FLOAT8E4M3FNUZ_expanded
        castlike_FLOAT16_to_FLOAT8E4M3FN_expanded castlike_FLOAT16_to_FLOAT8E5M2
        castlike_FLOAT16_to_FLOAT8E5M2FNUZ castlike_FLOAT16_to_FLOAT8E5M2FNUZ_expanded
        castlike_FLOAT16_to_FLOAT8E5M2_expanded castlike_FLOAT16_to_FLOAT_expanded castlike_FLOAT16_to_INT2
        castlike_FLOAT16_to_INT2_expanded castlike_FLOAT16_to_INT4 castlike_FLOAT16_to_INT4_expanded
        castlike_FLOAT16_to_UINT2 castlike_FLOAT16_to_UINT2_expanded castlike_FLOAT16_to_UINT4
        castlike_FLOAT16_to_UINT4_expanded castlike_FLOAT4E2M1_to_FLOAT castlike_FLOAT4E2M1_to_FLOAT16
        castlike_FLOAT4E2M1_to_FLOAT16_expanded castlike_FLOAT4E2M1_to_FLOAT_expanded
        castlike_FLOAT8E4M3FNUZ_to_FLOAT castlike_FLOAT8E4M3FNUZ_to_FLOAT16
        castlike_FLOAT8E4M3FNUZ_to_FLOAT16_expanded castlike_FLOAT8E4M3FNUZ_to_FLOAT_expanded
        castlike_FLOAT8E4M3FN_to_FLOAT castlike_FLOAT8E4M3FN_to_FLOAT16
        castlike_FLOAT8E4M3FN_to_FLOAT16_expanded castlike_FLOAT8E4M3FN_to_FLOAT_expanded
        castlike_FLOAT8E5M2FNUZ_to_FLOAT castlike_FLOAT8E5M2FNUZ_to_FLOAT16
        castlike_FLOAT8E5M2FNUZ_to_FLOAT16_expanded castlike_FLOAT8E5M2FNUZ_to_FLOAT_expanded
        castlike_FLOAT8E5M2_to_FLOAT castlike_FLOAT8E5M2_to_FLOAT16 castlike_FLOAT8E5M2_to_FLOAT16_expanded
        castlike_FLOAT8E5M2_to_FLOAT_expanded castlike_FLOAT_to_BFLOAT16 castlike_FLOAT_to_BFLOAT16_expanded
        castlike_FLOAT_to_DOUBLE castlike_FLOAT_to_DOUBLE_expanded castlike_FLOAT_to_FLOAT16
        castlike_FLOAT_to_FLOAT16_expanded castlike_FLOAT_to_FLOAT4E2M1 castlike_FLOAT_to_FLOAT4E2M1_expanded
        castlike_FLOAT_to_FLOAT8E4M3FN castlike_FLOAT_to_FLOAT8E4M3FNUZ
        castlike_FLOAT_to_FLOAT8E4M3FNUZ_expanded castlike_FLOAT_to_FLOAT8E4M3FN_expanded
        castlike_FLOAT_to_FLOAT8E5M2 castlike_FLOAT_to_FLOAT8E5M2FNUZ
        castlike_FLOAT_to_FLOAT8E5M2FNUZ_expanded castlike_FLOAT_to_FLOAT8E5M2_expanded castlike_FLOAT_to_INT2
        castlike_FLOAT_to_INT2_expanded castlike_FLOAT_to_INT4 castlike_FLOAT_to_INT4_expanded
        castlike_FLOAT_to_UINT2 castlike_FLOAT_to_UINT2_expanded castlike_FLOAT_to_UINT4
        castlike_FLOAT_to_UINT4_expanded castlike_INT2_to_FLOAT castlike_INT2_to_FLOAT16
        castlike_INT2_to_FLOAT16_expanded castlike_INT2_to_FLOAT_expanded castlike_INT2_to_INT8
        castlike_INT2_to_INT8_expanded castlike_INT4_to_FLOAT castlike_INT4_to_FLOAT16
        castlike_INT4_to_FLOAT16_expanded castlike_INT4_to_FLOAT_expanded castlike_INT4_to_INT8
        castlike_INT4_to_INT8_expanded castlike_UINT2_to_FLOAT castlike_UINT2_to_FLOAT16
        castlike_UINT2_to_FLOAT16_expanded castlike_UINT2_to_FLOAT_expanded castlike_UINT2_to_UINT8
        castlike_UINT2_to_UINT8_expanded castlike_UINT4_to_FLOAT castlike_UINT4_to_FLOAT16
        castlike_UINT4_to_FLOAT16_expanded castlike_UINT4_to_FLOAT_expanded castlike_UINT4_to_UINT8
        castlike_UINT4_to_UINT8_expanded castlike_no_saturate_FLOAT16_to_FLOAT8E4M3FN
        castlike_no_saturate_FLOAT16_to_FLOAT8E4M3FNUZ castlike_no_saturate_FLOAT16_to_FLOAT8E4M3FNUZ_expanded
        castlike_no_saturate_FLOAT16_to_FLOAT8E4M3FN_expanded castlike_no_saturate_FLOAT16_to_FLOAT8E5M2
        castlike_no_saturate_FLOAT16_to_FLOAT8E5M2FNUZ castlike_no_saturate_FLOAT16_to_FLOAT8E5M2FNUZ_expanded
        castlike_no_saturate_FLOAT16_to_FLOAT8E5M2_expanded castlike_no_saturate_FLOAT_to_FLOAT8E4M3FN
        castlike_no_saturate_FLOAT_to_FLOAT8E4M3FNUZ castlike_no_saturate_FLOAT_to_FLOAT8E4M3FNUZ_expanded
        castlike_no_saturate_FLOAT_to_FLOAT8E4M3FN_expanded castlike_no_saturate_FLOAT_to_FLOAT8E5M2
        castlike_no_saturate_FLOAT_to_FLOAT8E5M2FNUZ castlike_no_saturate_FLOAT_to_FLOAT8E5M2FNUZ_expanded
        castlike_no_saturate_FLOAT_to_FLOAT8E5M2_expanded dequantizelinear_e4m3fn
        dequantizelinear_e4m3fn_float16 dequantizelinear_e4m3fn_zero_point dequantizelinear_e5m2
        dequantizelinear_float4e2m1 dequantizelinear_int2 dequantizelinear_int4 dequantizelinear_uint2
        dequantizelinear_uint4 equal_string equal_string_broadcast identity_opt identity_sequence if_opt
        if_seq loop13_seq loop16_seq_none optional_get_element_optional_sequence
        optional_get_element_optional_tensor optional_get_element_sequence
        optional_has_element_empty_optional_input optional_has_element_optional_input
        optional_has_element_tensor_input quantizelinear_blocked_symmetric quantizelinear_e4m3fn
        quantizelinear_e5m2 quantizelinear_float4e2m1 quantizelinear_int2 quantizelinear_int4
        quantizelinear_uint2 quantizelinear_uint4 regex_full_match_basic regex_full_match_email_domain
        regex_full_match_empty sequence_insert_at_back sequence_insert_at_front
        sequence_map_add_1_sequence_1_tensor sequence_map_add_1_sequence_1_tensor_expanded
        sequence_map_add_2_sequences sequence_map_add_2_sequences_expanded sequence_map_extract_shapes
        sequence_map_extract_shapes_expanded sequence_map_identity_1_sequence
        sequence_map_identity_1_sequence_1_tensor sequence_map_identity_1_sequence_1_tensor_expanded
        sequence_map_identity_1_sequence_expanded sequence_map_identity_2_sequences
        sequence_map_identity_2_sequences_expanded split_to_sequence_1 split_to_sequence_2
        split_to_sequence_nokeepdims string_concat string_concat_broadcasting string_concat_empty_string
        string_concat_utf8 string_concat_zero_dimensional string_split_basic
        string_split_consecutive_delimiters string_split_empty_string_delimiter string_split_empty_tensor
        string_split_maxsplit string_split_no_delimiter strnormalizer_export_monday_casesensintive_lower
        strnormalizer_export_monday_casesensintive_nochangecase
        strnormalizer_export_monday_casesensintive_upper strnormalizer_export_monday_empty_output
        strnormalizer_export_monday_insensintive_upper_twodim strnormalizer_nostopwords_nochangecase
    """,
    "operators without a converter": """
        attention_4d_causal_nonpad_attn_mask_composition attention_4d_causal_nonpad_batch_prefill
        attention_4d_causal_nonpad_continued_prefill
        attention_4d_causal_nonpad_negative_offset_structural_empty attention_4d_causal_padded_kv_bf16
        attention_4d_causal_with_past_and_present attention_4d_diff_heads_mask4d_padded_kv
        attention_4d_gqa_causal_nonpad_decode attention_4d_gqa_causal_nonpad_decode_fp16
        attention_4d_padded_kv_bf16 attention_local_window_ext_cache_float16_mask
        attention_local_window_ext_cache_rank2_mask attention_local_window_ext_cache_rank3_head_mask
        attention_local_window_ext_cache_rank4_batch_mask attention_local_window_with_past
        basic_deform_conv_with_padding basic_deform_conv_without_padding bitcast_2d_float32_to_int32
        bitcast_bool_to_uint8 bitcast_float32_to_int32 bitcast_float64_to_int64 bitcast_int32_to_float32
        bitcast_int64_to_float64 bitcast_int8_to_uint8 bitcast_scalar_float32_to_int32 bitcast_uint16_to_int16
        bitcast_uint32_to_int32 causal_conv_with_state_silu_with_past_state
        causal_conv_with_state_with_past_state convinteger_with_padding convinteger_without_padding
        deform_conv_with_mask_bias deform_conv_with_multiple_offset_groups det_2d det_nd dft dft_axis
        dft_axis_opset19 dft_inverse dft_inverse_opset19 dft_irfft dft_irfft_opset19 dft_opset19 dft_rfft
        dft_rfft_opset19 image_decoder_decode_bmp_rgb image_decoder_decode_jpeg2k_rgb
        image_decoder_decode_jpeg_bgr image_decoder_decode_jpeg_grayscale image_decoder_decode_jpeg_rgb
        image_decoder_decode_png_rgb image_decoder_decode_pnm_rgb image_decoder_decode_tiff_rgb
        image_decoder_decode_webp_rgb linear_attention_delta linear_attention_explicit_scale
        linear_attention_fp16 linear_attention_gated linear_attention_gated_delta
        linear_attention_gated_delta_beta_scalar linear_attention_gated_delta_gqa
        linear_attention_gated_delta_mqa linear_attention_gated_per_head_decay
        maxunpool_export_with_output_shape maxunpool_export_without_output_shape melweightmatrix
        optional_get_element_tensor qlinearconv qlinearmatmul_2D_int8_float16 qlinearmatmul_2D_int8_float32
        qlinearmatmul_2D_uint8_float16 qlinearmatmul_2D_uint8_float32 qlinearmatmul_3D_int8_float16
        qlinearmatmul_3D_int8_float32 qlinearmatmul_3D_uint8_float16 qlinearmatmul_3D_uint8_float32
        reversesequence_batch reversesequence_bfloat16 reversesequence_time roialign_aligned_false
        roialign_aligned_true roialign_mode_max stft stft_with_window tensorscatter tensorscatter_3d
        tensorscatter_circular tfidfvectorizer_tf_batch_onlybigrams_skip0
        tfidfvectorizer_tf_batch_onlybigrams_skip5 tfidfvectorizer_tf_batch_uniandbigrams_skip5
        tfidfvectorizer_tf_only_bigrams_skip0 tfidfvectorizer_tf_onlybigrams_levelempty
        tfidfvectorizer_tf_onlybigrams_skip5 tfidfvectorizer_tf_uniandbigrams_skip5
    """,
    "what says how depends on values (constants, in networks), or on a condition that does": """
        affine_grid_2d_align_corners_expanded affine_grid_2d_expanded affine_grid_3d_align_corners_expanded
        affine_grid_3d_expanded attention_4d_causal_padded_kv_bf16_expanded
        attention_4d_padded_kv_bf16_expanded attention_local_window_ext_cache_float16_mask_expanded
        blackmanwindow blackmanwindow_expanded blackmanwindow_symmetric blackmanwindow_symmetric_expanded
        center_crop_pad_crop_and_pad_expanded center_crop_pad_crop_axes_chw_expanded
        center_crop_pad_crop_axes_hwc_expanded center_crop_pad_crop_expanded
        center_crop_pad_crop_negative_axes_hwc_expanded center_crop_pad_pad_expanded constant_pad
        constant_pad_axes constant_pad_negative_axes cumsum_1d cumsum_1d_exclusive cumsum_1d_int32_exclusive
        cumsum_1d_reverse cumsum_1d_reverse_exclusive cumsum_2d_axis_0 cumsum_2d_axis_1 cumsum_2d_int32
        cumsum_2d_negative_axis dropout_default_mask_ratio dropout_default_ratio hammingwindow
        hammingwindow_expanded hammingwindow_symmetric hammingwindow_symmetric_expanded hannwindow
        hannwindow_expanded hannwindow_symmetric hannwindow_symmetric_expanded if onehot_negative_indices
        onehot_out_of_range_indices onehot_with_axis onehot_with_bfloat16_values onehot_with_negative_axis
        onehot_without_axis range_float16_type_positive_delta range_float_type_positive_delta
        range_int32_type_negative_delta rotary_embedding_interleaved rotary_embedding_interleaved_expanded
        rotary_embedding_no_position_ids_interleaved rotary_embedding_no_position_ids_interleaved_expanded
        rotary_embedding_with_interleaved_rotary_dim rotary_embedding_with_interleaved_rotary_dim_expanded
        training_dropout training_dropout_default training_dropout_default_mask training_dropout_mask
        training_dropout_zero_ratio training_dropout_zero_ratio_mask
    """,
    "PyTorch doesn't compute with unsigned numbers of 16 and more bits": """
        add_uint16 add_uint32 add_uint64 bitshift_left_uint16 bitshift_left_uint32 bitshift_left_uint64
        bitshift_right_uint16 bitshift_right_uint32 bitshift_right_uint64 bitwise_not_3d div_uint16 div_uint32
        div_uint64 greater_equal_uint16 greater_equal_uint16_expanded greater_equal_uint32
        greater_equal_uint32_expanded greater_equal_uint64 greater_equal_uint64_expanded greater_uint16
        greater_uint32 greater_uint64 less_equal_uint16 less_equal_uint16_expanded less_equal_uint32
        less_equal_uint32_expanded less_equal_uint64 less_equal_uint64_expanded less_uint16 less_uint32
        less_uint64 max_uint16 max_uint32 max_uint64 min_uint16 min_uint32 min_uint64 mod_uint16 mod_uint32
        mod_uint64 sub_uint16 sub_uint32 sub_uint64
    """,
    "loops": """
        linear_attention_decode_step linear_attention_decode_step_expanded linear_attention_delta_expanded
        linear_attention_explicit_scale_expanded linear_attention_fp16_expanded
        linear_attention_gated_delta_beta_scalar_expanded linear_attention_gated_delta_expanded
        linear_attention_gated_delta_gqa_expanded linear_attention_gated_delta_mqa_expanded
        linear_attention_gated_expanded linear_attention_gated_per_head_decay_expanded linear_attention_linear
        linear_attention_linear_expanded linear_attention_linear_t1_no_past
        linear_attention_linear_t1_no_past_expanded linear_attention_no_past_explicit_zeros
        linear_attention_no_past_explicit_zeros_expanded linear_attention_prefill_with_past
        linear_attention_prefill_with_past_expanded loop11 range_bfloat16_type_positive_delta_expanded
        range_float16_type_positive_delta_expanded range_float_type_positive_delta_expanded
        range_int32_type_negative_delta_expanded scan9_multi_state scan9_scalar scan9_sum scan_sum
    """,
    "the size of the result depends on values": """
        compress_0 compress_1 compress_bfloat16 compress_default_axis compress_negative_axis
        nonmaxsuppression_center_point_box_format nonmaxsuppression_flipped_coordinates
        nonmaxsuppression_identical_boxes nonmaxsuppression_iou_threshold_boundary
        nonmaxsuppression_limit_output_size nonmaxsuppression_single_box nonmaxsuppression_suppress_by_IOU
        nonmaxsuppression_suppress_by_IOU_and_scores nonmaxsuppression_two_batches
        nonmaxsuppression_two_classes nonzero_example unique_bfloat16_sorted_without_axis unique_length_1
        unique_not_sorted_without_axis unique_sorted_with_axis unique_sorted_with_axis_3d
        unique_sorted_with_negative_axis unique_sorted_without_axis
    """,
    "recurrent layers": """
        gru_batchwise gru_bidirectional gru_defaults gru_reverse gru_seq_length gru_with_initial_bias
        lstm_batchwise lstm_bidirectional lstm_defaults lstm_reverse lstm_with_initial_bias
        lstm_with_peepholes rnn_seq_length simple_rnn_batchwise simple_rnn_bidirectional simple_rnn_defaults
        simple_rnn_reverse simple_rnn_with_initial_bias
    """,
    "other domains than ONNX's own operators": """
        ai_onnx_ml_array_feature_extractor ai_onnx_ml_binarizer ai_onnx_ml_tree_ensemble_set_membership
        ai_onnx_ml_tree_ensemble_single_tree flexattention flexattention_causal_mask
        flexattention_diff_head_sizes flexattention_double flexattention_fp16 flexattention_gqa
        flexattention_prob_mod flexattention_relative_positional flexattention_scaled flexattention_score_mod
        flexattention_soft_cap
    """,
    "training": """
        adagrad adagrad_multiple adam adam_multiple batchnorm_epsilon_training_mode
        batchnorm_example_training_mode momentum momentum_multiple nesterov_momentum
    """,
    "pooling with dilations": """
        averagepool_2d_dilations averagepool_3d_dilations_large_count_include_pad_is_0_ceil_mode_is_False
        averagepool_3d_dilations_large_count_include_pad_is_0_ceil_mode_is_True
        averagepool_3d_dilations_large_count_include_pad_is_1_ceil_mode_is_False
        averagepool_3d_dilations_large_count_include_pad_is_1_ceil_mode_is_True averagepool_3d_dilations_small
        lppool_2d_dilations
    """,
    "random numbers": """
        bernoulli bernoulli_double bernoulli_double_expanded bernoulli_expanded bernoulli_seed
        bernoulli_seed_expanded
    """,
    "older than version 7": """
        not_2d not_3d not_4d
    """,
    "Col2Im: over 3 axes, padded by [0, 0, 0, 0, 0, 0]": """
        col2im_5d
    """,
    "DequantizeLinear: in blocks": """
        dequantizelinear_blocked
    """,
    "MaxPool: with indices, in columns or unequally padded": """
        maxpool_with_argmax_2d_precomputed_strides
    """,
    "QuantizeLinear: in blocks": """
        quantizelinear_blocked_asymmetric
    """,
}
"""Names without "test_", separated by spaces, by reason."""
